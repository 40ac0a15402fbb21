"""The Hilum contract: all that two parts must agree on, and nothing else."""
