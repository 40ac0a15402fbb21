"""training bundle: to be described."""
