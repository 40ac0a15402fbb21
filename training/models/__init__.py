"""training models: to be described."""
