"""What the edge agent decides. Pure: no I/O, no threads, no clock."""
