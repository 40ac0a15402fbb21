"""Sends many images over one DetectStream call, for asyncio; `batch` makes the decisions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any, Final, Generic, TypeAlias

import grpc

from hilum.client import errors
from hilum.client.batch import Batch, Key, ended_early
from hilum.client.errors import DetectError
from hilum.client.request import ImageSource, Options, pair, read, refuse_single
from hilum.client.results import Result
from hilum.client.retry import Clock
from hilum.v1 import detection_pb2 as pb

# grpc's multi-callable; its own stubs do not say that calling one gives messages.
StreamMethod: TypeAlias = Callable[..., Any]
_Event: TypeAlias = pb.DetectStreamResponse | DetectError

# Seconds that a finished stream may take to close before it is cancelled.
_GOODBYE_S: Final = 1.0


def pair_images_async(
    images: Iterable[Any] | AsyncIterable[Any],
) -> AsyncIterator[tuple[Any, ImageSource]]:
    """Return the images as pairs (key, image); a single path is its own key.

    Raises:
        TypeError: `images` is one image.
    """
    refuse_single(images)
    return _keyed(images)


async def _keyed(
    images: Iterable[Any] | AsyncIterable[Any],
) -> AsyncIterator[tuple[Any, ImageSource]]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield pair(image)
    else:
        for image in images:
            yield pair(image)


def is_cancelled() -> bool:
    """Return True if this task was cancelled; grpc.aio raises CancelledError for calls, too."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def detect_stream(
    images: AsyncIterator[tuple[Key, ImageSource]],
    options: Options,
    batch: Batch[Key],
    open_stream: Callable[[], Stream],
    clock: Clock,
) -> AsyncIterator[tuple[Key, Result | DetectError]]:
    """See `AsyncClient.detect_many`."""
    run = _Run(images, options, batch, open_stream, clock)
    try:
        while run.unfinished:
            for outcome in await run.step():
                yield outcome
    finally:
        await run.end()


class _Run(Generic[Key]):
    """Takes images and receives answers, whichever comes first."""

    def __init__(
        self,
        images: AsyncIterator[tuple[Key, ImageSource]],
        options: Options,
        batch: Batch[Key],
        open_stream: Callable[[], Stream],
        clock: Clock,
    ) -> None:
        self._images = images
        self._options = options
        self._batch = batch
        self._open_stream = open_stream
        self._clock = clock
        self._stream: Stream | None = None
        self._taking: asyncio.Task[tuple[Key, pb.DetectRequest | DetectError] | None] | None = None
        self._more = True

    @property
    def unfinished(self) -> bool:
        return self._more or len(self._batch) > 0

    async def step(self) -> list[tuple[Key, Result | DetectError]]:
        """Wait for the next image, answer or deadline; return the outcomes."""
        if self._more and self._taking is None and self._batch.has_room:
            self._taking = asyncio.create_task(self._take())
        if len(self._batch):
            self._stream = self._stream or self._open_stream()
            for request in self._batch.due(self._clock.now()):
                self._stream.send(request)
        hearing = None if self._stream is None else self._stream.next_event()
        done, _ = await asyncio.wait(
            [task for task in (self._taking, hearing) if task is not None],
            timeout=self._batch.wait_s(self._clock.now()) if len(self._batch) else None,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if hearing is not None and hearing in done:
            return await self._heard(hearing.result())
        if self._taking is not None and self._taking in done:
            taken = self._taking.result()
            self._taking = None
            return self._took(taken)
        return await self._expire()

    async def end(self) -> None:
        """Cancel what is still running."""
        if self._taking is not None:
            self._taking.cancel()
            await asyncio.wait([self._taking])
        if self._stream is not None:
            await self._stream.close(goodbye=not len(self._batch))

    async def _take(self) -> tuple[Key, pb.DetectRequest | DetectError] | None:
        taken = await anext(self._images, None)
        if taken is None:
            return None
        key, image = taken
        try:
            return key, self._options.request(await asyncio.to_thread(read, image))
        except DetectError as error:
            return key, error

    def _took(
        self, taken: tuple[Key, pb.DetectRequest | DetectError] | None
    ) -> list[tuple[Key, Result | DetectError]]:
        if taken is None:
            self._more = False
            return []
        key, request = taken
        if isinstance(request, DetectError):
            return [(key, request)]
        self._batch.take(key, request, self._clock.now())
        return []

    async def _heard(self, event: _Event) -> list[tuple[Key, Result | DetectError]]:
        if isinstance(event, DetectError):
            await self._drop_stream()
            # A stream that breaks while nothing is under way is simply opened again.
            if not len(self._batch):
                return []
            at_fault, wait_s = self._batch.lost(event, self._clock.now())
            await self._clock.sleep_async(wait_s)
            return [*at_fault]
        outcome = self._batch.answer(event, self._clock.now())
        return [] if outcome is None else [outcome]

    async def _expire(self) -> list[tuple[Key, Result | DetectError]]:
        late, drop = self._batch.expire(self._clock.now())
        if drop:
            await self._drop_stream()
        return [*late]

    async def _drop_stream(self) -> None:
        if self._stream is not None:
            await self._stream.close()
            self._stream = None


class Stream:
    """One DetectStream call, whose answers a task receives."""

    def __init__(self, method: StreamMethod, metadata: tuple[tuple[str, str], ...]) -> None:
        self._requests: asyncio.Queue[pb.DetectRequest | None] = asyncio.Queue()
        self._events: asyncio.Queue[_Event] = asyncio.Queue()
        self._call = method(self._outgoing(), metadata=metadata)
        self._reader = asyncio.create_task(self._read())
        self._hearing: asyncio.Task[_Event] | None = None

    def send(self, request: pb.DetectRequest) -> None:
        """Never blocks: what waits here is bounded by the batch."""
        self._requests.put_nowait(request)

    def next_event(self) -> asyncio.Task[_Event]:
        """Return the task of the next answer or the stream's end; the same one until it is done."""
        if self._hearing is None or self._hearing.done():
            self._hearing = asyncio.create_task(self._events.get())
        return self._hearing

    async def close(self, *, goodbye: bool = False) -> None:
        """End the call; with `goodbye` let the agent end it in good order first."""
        self._requests.put_nowait(None)
        if self._hearing is not None:
            self._hearing.cancel()
        if goodbye:
            await asyncio.wait([self._reader], timeout=_GOODBYE_S)
        self._call.cancel()
        await asyncio.wait([self._reader])

    async def _outgoing(self) -> AsyncIterator[pb.DetectRequest]:
        while (request := await self._requests.get()) is not None:
            yield request

    async def _read(self) -> None:
        try:
            async for message in self._call:
                self._events.put_nowait(message)
        except grpc.aio.AioRpcError as failure:
            self._events.put_nowait(errors.from_rpc(failure))
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            self._events.put_nowait(errors.cancelled())
        else:
            self._events.put_nowait(ended_early())
