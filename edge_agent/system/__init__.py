"""What the agent needs of Linux: atomic files, processes, the allocator, asyncio, logging.

Imports nothing of the agent but its errors; training uses the files, too.
"""
