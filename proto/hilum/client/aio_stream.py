"""Sends many images over one DetectStream call, for asyncio; `batch` makes the decisions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any, Final, Generic, TypeAlias

import grpc

from hilum.client import errors
from hilum.client.batch import Batch, Key, stream_ended_error
from hilum.client.errors import DetectError
from hilum.client.request import ImageSource, Options, make_pair, read_image, refuse_single
from hilum.client.results import Result
from hilum.client.retry import Clock
from hilum.v1 import detection_pb2 as pb

# grpc's multi-callable; its type stubs do not declare that a call yields messages.
StreamMethod: TypeAlias = Callable[..., Any]
_Event: TypeAlias = pb.DetectStreamResponse | DetectError
_NextImage: TypeAlias = tuple[Key, pb.DetectRequest | DetectError] | None

# Seconds that the agent has to end a stream before it is cancelled.
_CLOSE_TIMEOUT_S: Final = 1.0


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
            yield make_pair(image)
    else:
        for image in images:
            yield make_pair(image)


def is_cancelled() -> bool:
    """Return True if this task was cancelled. grpc.aio raises CancelledError for calls, too."""
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
    run = _BatchRun(images, options, batch, open_stream, clock)
    try:
        while run.has_work:
            for outcome in await run.step():
                yield outcome
    finally:
        await run.close()


class _BatchRun(Generic[Key]):
    """One `detect_many` call: reads images and receives answers, whichever comes first."""

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
        self._image_task: asyncio.Task[_NextImage[Key]] | None = None
        self._has_more_images = True

    @property
    def has_work(self) -> bool:
        return self._has_more_images or len(self._batch) > 0

    async def step(self) -> list[tuple[Key, Result | DetectError]]:
        """Wait for the next image, answer or deadline; return the outcomes."""
        if self._has_more_images and self._image_task is None and self._batch.has_room:
            self._image_task = asyncio.create_task(self._read_next_image())
        if len(self._batch):
            self._stream = self._stream or self._open_stream()
            for request in self._batch.pop_due(self._clock.now()):
                self._stream.send(request)
        event_task = None if self._stream is None else self._stream.next_event()
        done, _ = await asyncio.wait(
            [task for task in (self._image_task, event_task) if task is not None],
            timeout=self._batch.compute_wait_s(self._clock.now()) if len(self._batch) else None,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if event_task is not None and event_task in done:
            return await self._handle_event(event_task.result())
        if self._image_task is not None and self._image_task in done:
            next_image = self._image_task.result()
            self._image_task = None
            return self._add_image(next_image)
        return await self._expire()

    async def close(self) -> None:
        """Cancel the tasks and close the stream."""
        if self._image_task is not None:
            self._image_task.cancel()
            await asyncio.wait([self._image_task])
        if self._stream is not None:
            await self._stream.close(is_finished=not len(self._batch))

    async def _read_next_image(self) -> _NextImage[Key]:
        next_image = await anext(self._images, None)
        if next_image is None:
            return None
        key, image = next_image
        try:
            return key, self._options.make_request(await asyncio.to_thread(read_image, image))
        except DetectError as error:
            return key, error

    def _add_image(self, next_image: _NextImage[Key]) -> list[tuple[Key, Result | DetectError]]:
        if next_image is None:
            self._has_more_images = False
            return []
        key, request = next_image
        if isinstance(request, DetectError):
            return [(key, request)]
        self._batch.add(key, request, self._clock.now())
        return []

    async def _handle_event(self, event: _Event) -> list[tuple[Key, Result | DetectError]]:
        if isinstance(event, DetectError):
            await self._close_stream()
            # A stream that breaks while no image is in progress is opened again.
            if not len(self._batch):
                return []
            failed, wait_s = self._batch.handle_loss(event, self._clock.now())
            await self._clock.sleep_async(wait_s)
            return [*failed]
        outcome = self._batch.handle_answer(event, self._clock.now())
        return [] if outcome is None else [outcome]

    async def _expire(self) -> list[tuple[Key, Result | DetectError]]:
        expired, must_close = self._batch.expire(self._clock.now())
        if must_close:
            await self._close_stream()
        return [*expired]

    async def _close_stream(self) -> None:
        if self._stream is not None:
            await self._stream.close()
            self._stream = None


class Stream:
    """A DetectStream call. A task receives its answers."""

    def __init__(self, method: StreamMethod, metadata: tuple[tuple[str, str], ...]) -> None:
        self._requests: asyncio.Queue[pb.DetectRequest | None] = asyncio.Queue()
        self._events: asyncio.Queue[_Event] = asyncio.Queue()
        self._call = method(self._iter_requests(), metadata=metadata)
        self._reading_task = asyncio.create_task(self._read_events())
        self._event_task: asyncio.Task[_Event] | None = None

    def send(self, request: pb.DetectRequest) -> None:
        """Queue a request. This never blocks, because the batch bounds the queue."""
        self._requests.put_nowait(request)

    def next_event(self) -> asyncio.Task[_Event]:
        """Return the task of the next answer or the stream's end; the same until it is done."""
        if self._event_task is None or self._event_task.done():
            self._event_task = asyncio.create_task(self._events.get())
        return self._event_task

    async def close(self, *, is_finished: bool = False) -> None:
        """Cancel the call. If it is finished, wait for the agent to end it first."""
        self._requests.put_nowait(None)
        if self._event_task is not None:
            self._event_task.cancel()
        if is_finished:
            await asyncio.wait([self._reading_task], timeout=_CLOSE_TIMEOUT_S)
        self._call.cancel()
        await asyncio.wait([self._reading_task])

    async def _iter_requests(self) -> AsyncIterator[pb.DetectRequest]:
        while (request := await self._requests.get()) is not None:
            yield request

    async def _read_events(self) -> None:
        try:
            async for message in self._call:
                self._events.put_nowait(message)
        except grpc.aio.AioRpcError as failure:
            self._events.put_nowait(errors.from_rpc(failure))
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            self._events.put_nowait(errors.cancelled_error())
        else:
            self._events.put_nowait(stream_ended_error())
