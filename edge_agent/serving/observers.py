"""Observers of detections. Each outcome is passed to them afterwards, in a task of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from edge_agent.core.findings import Finding
from edge_agent.engines.model import LoadedModel
from edge_agent.serving.types import DetectionResult
from edge_agent.system.logging import describe_origin
from hilum.codes import ErrorCode

QUEUE_SIZE: Final = 1024
"""Outcomes that wait for the observers; further ones are dropped and counted."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CompletedDetection:
    """An answered study image.

    Attributes:
        result: the answer, whose findings are those above the caller's thresholds.
        candidates: the findings from the head's score floor, whatever the caller asked for, by
            falling score. Rates and score histograms rest on these, because a caller's threshold
            would bias them.
        model: the model that answered.
    """

    result: DetectionResult
    candidates: tuple[Finding, ...]
    model: LoadedModel


class DetectionObserver(Protocol):
    """Is told of every detection. Methods run on the event loop and must return at once."""

    def completed(self, detection: CompletedDetection) -> None:
        """Handle an answered image."""
        ...

    def failed(self, code: ErrorCode, bundle_digest: str) -> None:
        """Handle an error; the digest is empty if no model was leased yet."""
        ...


class ObserverQueue:
    """Passes outcomes to observers in a task of its own, in order. Belongs to one event loop.

    An observer that raises is logged and does not affect the others. While the queue is full,
    outcomes are dropped and counted.
    """

    def __init__(
        self, observers: Iterable[DetectionObserver] = (), *, size: int = QUEUE_SIZE
    ) -> None:
        self._observers = list(observers)
        self._queue: asyncio.Queue[Callable[[DetectionObserver], None]] = asyncio.Queue(size)
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0

    def add(self, observer: DetectionObserver) -> None:
        """Pass all further outcomes to this observer, too."""
        self._observers.append(observer)

    def completed(self, detection: CompletedDetection) -> None:
        """Queue an answered image."""
        self._put(partial(_call_completed, detection))

    def failed(self, code: ErrorCode, bundle_digest: str = "") -> None:
        """Queue an error."""
        self._put(partial(_call_failed, code, bundle_digest))

    async def flush(self) -> None:
        """Wait until the observers have handled everything that was queued."""
        await self._queue.join()

    async def close(self) -> None:
        """Pass on what is queued, and end the task."""
        if self._task is not None:
            await self.flush()
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def _put(self, call: Callable[[DetectionObserver], None]) -> None:
        if not self._observers:
            return
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="observers")
        try:
            self._queue.put_nowait(call)
        except asyncio.QueueFull:
            self.dropped += 1

    async def _run(self) -> None:
        while True:
            call = await self._queue.get()
            for observer in self._observers:
                try:
                    call(observer)
                except Exception as error:  # noqa: BLE001  # an observer must not end the others
                    _log.error(
                        "an observer of detections failed",
                        extra={"error": type(error).__name__, "at": describe_origin(error)},
                    )
            self._queue.task_done()


def _call_completed(detection: CompletedDetection, observer: DetectionObserver) -> None:
    observer.completed(detection)


def _call_failed(code: ErrorCode, bundle_digest: str, observer: DetectionObserver) -> None:
    observer.failed(code, bundle_digest)
