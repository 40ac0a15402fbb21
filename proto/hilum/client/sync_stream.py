"""Sends many images over one DetectStream call, for threads; `batch` makes the decisions."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import grpc

from hilum.client import errors
from hilum.client.batch import Batch, Key, stream_ended_error
from hilum.client.errors import DetectError
from hilum.client.request import ImageSource, Options, read_image
from hilum.client.results import Result
from hilum.client.retry import Clock
from hilum.v1 import detection_pb2 as pb

# grpc's multi-callable; its type stubs do not declare that a call yields messages.
StreamMethod: TypeAlias = Callable[..., Any]

# Seconds that the agent has to end a stream before it is cancelled.
_CLOSE_TIMEOUT_S: Final = 1.0


def detect_stream(
    images: Iterator[tuple[Key, ImageSource]],
    options: Options,
    batch: Batch[Key],
    open_stream: Callable[[], Stream],
    clock: Clock,
) -> Iterator[tuple[Key, Result | DetectError]]:
    """See `Client.detect_many`."""
    stream: Stream | None = None
    has_more_images = True
    try:
        while True:
            while has_more_images and batch.has_room:
                next_image = next(images, None)
                if next_image is None:
                    has_more_images = False
                    break
                yield from _add_image(*next_image, options, batch, clock)
            if not len(batch):
                return
            stream = stream or open_stream()
            for request in batch.pop_due(clock.now()):
                stream.send(request)
            match stream.receive(batch.compute_wait_s(clock.now())):
                case None:
                    expired, must_close = batch.expire(clock.now())
                    if must_close:
                        stream.close()
                        stream = None
                    yield from expired
                case DetectError() as broken:
                    stream.close()
                    stream = None
                    failed, wait_s = batch.handle_loss(broken, clock.now())
                    yield from failed
                    clock.sleep(wait_s)
                case message:
                    outcome = batch.handle_answer(message, clock.now())
                    if outcome is not None:
                        yield outcome
    finally:
        if stream is not None:
            stream.close(is_finished=not len(batch))


def _add_image(
    key: Key, image: ImageSource, options: Options, batch: Batch[Key], clock: Clock
) -> Iterator[tuple[Key, DetectError]]:
    """Add an image to the batch; yield its error if it cannot be read."""
    try:
        batch.add(key, options.make_request(read_image(image)), clock.now())
    except DetectError as error:
        yield key, error


class Stream:
    """A DetectStream call. A thread receives its answers, so that waiting can time out."""

    def __init__(self, method: StreamMethod, metadata: tuple[tuple[str, str], ...]) -> None:
        self._requests: queue.SimpleQueue[pb.DetectRequest | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[pb.DetectStreamResponse | DetectError]
        self._events = queue.SimpleQueue()
        self._call = method(iter(self._requests.get, None), metadata=metadata)
        self._reading_thread = threading.Thread(
            target=self._read_events, name="hilum-stream", daemon=True
        )
        self._reading_thread.start()

    def send(self, request: pb.DetectRequest) -> None:
        """Queue a request. This never blocks, because the batch bounds the queue."""
        self._requests.put(request)

    def receive(self, timeout_s: float) -> pb.DetectStreamResponse | DetectError | None:
        """Return the next answer or the stream's end; None if there is none in time."""
        try:
            return self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def close(self, *, is_finished: bool = False) -> None:
        """Cancel the call. If it is finished, wait for the agent to end it first."""
        self._requests.put(None)
        if is_finished:
            self._reading_thread.join(_CLOSE_TIMEOUT_S)
        self._call.cancel()
        self._reading_thread.join()

    def _read_events(self) -> None:
        try:
            for message in self._call:
                self._events.put(message)
        except grpc.RpcError as failure:
            self._events.put(errors.from_rpc(failure))
        else:
            self._events.put(stream_ended_error())
