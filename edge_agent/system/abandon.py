"""Blocking work that is abandoned when it takes too long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Abandoned(Exception):
    """The work did not end in time. It may go on in its thread for ever."""


def run_or_abandon(work: Callable[[], T], limit_s: float, discard: Callable[[T], None]) -> T:
    """Run blocking work in a thread of its own, and abandon it when it takes too long.

    A thread cannot be stopped, so it is a daemon thread, for which the interpreter does not wait
    when it exits.

    Args:
        work: blocks, perhaps for ever.
        limit_s: seconds after which it is abandoned.
        discard: called with the result, in the work's thread, if the work ends after that.

    Returns:
        The work's result.

    Raises:
        Abandoned: the work did not end in time.
        Exception: the work's own.
    """
    running = _Work(work, discard)
    threading.Thread(target=running.run, name="abandonable", daemon=True).start()
    return running.wait(limit_s)


class _Work(Generic[T]):
    def __init__(self, work: Callable[[], T], discard: Callable[[T], None]) -> None:
        self._work = work
        self._discard = discard
        self._has_ended = threading.Condition()
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._is_abandoned = False

    def run(self) -> None:
        try:
            result = self._work()
        except BaseException as error:  # noqa: BLE001  # raised again where it is awaited
            with self._has_ended:
                self._error = error
                self._has_ended.notify_all()
            return
        with self._has_ended:
            if not self._is_abandoned:
                self._results.append(result)
                self._has_ended.notify_all()
                return
        self._discard(result)

    def wait(self, limit_s: float) -> T:
        with self._has_ended:
            if not self._has_ended.wait_for(lambda: self._results or self._error, limit_s):
                self._is_abandoned = True
                raise Abandoned
        if self._error is not None:
            raise self._error
        return self._results.pop()
