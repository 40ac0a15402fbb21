"""training export: to be described."""
