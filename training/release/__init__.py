"""training release: to be described."""
