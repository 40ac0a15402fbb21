"""Annotated radiographs, real and synthetic."""
