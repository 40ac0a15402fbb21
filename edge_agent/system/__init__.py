"""Helpers for the operating system: atomic files, processes, the allocator, asyncio, logging.

The package imports nothing of the agent but its errors; training uses `files`, too.
"""
