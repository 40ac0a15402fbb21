"""Selects the engine variant for this machine: every candidate is tried, measured and compared."""
