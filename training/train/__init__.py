"""training train: to be described."""
