"""Blocking work off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def run_to_end(
    executor: Executor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run a blocking function on an executor; return only when it has ended.

    A thread cannot be stopped. If the caller is cancelled, its cancellation is passed on after the
    function has ended, so that whatever the caller holds meanwhile (a slot, a place in the queue)
    is free exactly when the thread is.
    """
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(executor, lambda: function(*args, **kwargs))
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return future.result()
    future.exception()  # Nobody is left to take it; retrieved, lest asyncio report it as lost.
    raise cancelled
