"""Work and waits that a cancellation does not interrupt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def run_uncancellable(
    executor: Executor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run a blocking function on an executor and return only when it has ended.

    A thread cannot be stopped. If the caller is cancelled, the cancellation is raised after the
    function has ended, so that what the caller holds meanwhile (such as a semaphore) becomes free
    exactly when the thread does.

    Args:
        executor: the threads to run it on.
        function: blocks; its arguments follow.

    Returns:
        The function's result.

    Raises:
        CancelledError: the caller was cancelled; the function has ended.
    """
    loop = asyncio.get_running_loop()
    return await wait_uncancellable(
        loop.run_in_executor(executor, lambda: function(*args, **kwargs))
    )


async def wait_uncancellable(
    future: asyncio.Future[T], on_cancel: Callable[[], None] | None = None
) -> T:
    """Wait for a future without cancelling it, and raise the caller's cancellation afterwards.

    Args:
        future: is not cancelled when the caller is.
        on_cancel: called whenever the caller is cancelled; if it completes the future, the
            cancellation is raised at once.

    Returns:
        The future's result.

    Raises:
        CancelledError: the caller was cancelled; the future is done, and its outcome is dropped.
    """
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
            if on_cancel is not None:
                on_cancel()
    if cancelled is None:
        return future.result()
    if not future.cancelled():
        future.exception()  # Retrieved, because asyncio reports exceptions that never are.
    raise cancelled
