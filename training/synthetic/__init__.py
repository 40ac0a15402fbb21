"""training synthetic: to be described."""
