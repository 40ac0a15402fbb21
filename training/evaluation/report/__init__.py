"""training evaluation report: to be described."""
