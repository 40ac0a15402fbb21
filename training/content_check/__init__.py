"""training content_check: to be described."""
