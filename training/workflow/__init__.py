"""training workflow: to be described."""
