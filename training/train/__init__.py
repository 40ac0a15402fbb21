"""Training of a detector: loop, loader, losses, checkpoints, tracking, search and launchers."""
