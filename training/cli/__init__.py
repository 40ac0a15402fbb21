"""training cli: to be described."""
