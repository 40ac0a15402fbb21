"""asyncio: work that a cancellation does not interrupt, and waits that a deadline bounds.

Deadlines are times of the event loop's clock, in seconds; None means that there is none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

from edge_agent.errors import DeadlineExceeded

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
        future.exception()  # Retrieved, because asyncio reports an exception that nothing takes.
    raise cancelled


async def acquire_before(deadline: float | None, acquire: Callable[[], Awaitable[T]]) -> T:
    """Wait for a resource no longer than until the deadline.

    Use it for the wait before work starts, not for the work.

    Args:
        deadline: on the event loop's clock, in seconds.
        acquire: waits for the resource; must lose nothing when it is cancelled.

    Returns:
        What `acquire` returns.

    Raises:
        DeadlineExceeded: the deadline had passed, or passed during the wait.
    """
    if is_past(deadline):
        raise deadline_exceeded()
    try:
        async with asyncio.timeout_at(deadline):
            return await acquire()
    except TimeoutError:
        raise deadline_exceeded() from None


def is_past(deadline: float | None) -> bool:
    """Return True if the deadline has come."""
    return deadline is not None and asyncio.get_running_loop().time() >= deadline


def deadline_exceeded() -> DeadlineExceeded:
    """Return the error of a request whose deadline passed before its work was started."""
    return DeadlineExceeded("The caller's deadline passed before the work was started.")
