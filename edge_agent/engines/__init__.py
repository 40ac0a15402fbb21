"""Pixels to raw outputs."""
