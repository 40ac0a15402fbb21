"""The life cycle that all parts of an agent share: start, stop, and for listeners drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, Protocol

_log = logging.getLogger(__name__)


class Service(Protocol):
    """A part of the agent that runs from `start` to `stop`."""

    async def start(self) -> None:
        """Start; returns when the service works. If it raises, nothing is left to stop."""
        ...

    async def stop(self) -> None:
        """Stop and free everything."""
        ...


class Listener(Service, Protocol):
    """A service that answers requests of other processes on a port."""

    @property
    def port(self) -> int:
        """The port; after `start` the one that was chosen."""
        ...

    async def drain(self) -> None:
        """Refuse new requests; return when all that were accepted are answered."""
        ...


async def start_service(running: AsyncExitStack, service: Service) -> None:
    """Start a service, and stop it when the stack is closed, before those started earlier."""
    await service.start()
    running.push_async_callback(service.stop)


class BackgroundTask:
    """A service that is one coroutine, which runs until it is cancelled."""

    def __init__(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Create the service.

        Args:
            run: makes the coroutine.
            name: the task's name, which the log gives if it fails.
        """
        self._run = run
        self._name = name
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the coroutine."""
        self._task = asyncio.create_task(self._run(), name=self._name)
        self._task.add_done_callback(self._log_failure)

    async def stop(self) -> None:
        """Cancel the coroutine and wait until it has ended."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._task

    def _log_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            _log.error("a background task failed", extra={"task": self._name}, exc_info=error)
