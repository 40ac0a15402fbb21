"""Sends many images over one DetectStream call, for threads; `batch` makes the decisions."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import grpc

from hilum.client import errors
from hilum.client.batch import Batch, Key, ended_early
from hilum.client.errors import DetectError
from hilum.client.request import ImageSource, Options, read
from hilum.client.results import Result
from hilum.client.retry import Clock
from hilum.v1 import detection_pb2 as pb

# grpc's multi-callable; its own stubs do not say that calling one gives messages.
StreamMethod: TypeAlias = Callable[..., Any]

# Seconds that a finished stream may take to close before it is cancelled.
_GOODBYE_S: Final = 1.0


def detect_stream(
    images: Iterator[tuple[Key, ImageSource]],
    options: Options,
    batch: Batch[Key],
    open_stream: Callable[[], Stream],
    clock: Clock,
) -> Iterator[tuple[Key, Result | DetectError]]:
    """See `Client.detect_many`."""
    stream: Stream | None = None
    more = True
    try:
        while True:
            while more and batch.has_room:
                taken = next(images, None)
                if taken is None:
                    more = False
                    break
                yield from _take(*taken, options, batch, clock)
            if not len(batch):
                return
            stream = stream or open_stream()
            for request in batch.due(clock.now()):
                stream.send(request)
            match stream.receive(batch.wait_s(clock.now())):
                case None:
                    late, drop = batch.expire(clock.now())
                    if drop:
                        stream.close()
                        stream = None
                    yield from late
                case DetectError() as broken:
                    stream.close()
                    stream = None
                    at_fault, wait_s = batch.lost(broken, clock.now())
                    yield from at_fault
                    clock.sleep(wait_s)
                case message:
                    outcome = batch.answer(message, clock.now())
                    if outcome is not None:
                        yield outcome
    finally:
        if stream is not None:
            stream.close(goodbye=not len(batch))


def _take(
    key: Key, image: ImageSource, options: Options, batch: Batch[Key], clock: Clock
) -> Iterator[tuple[Key, DetectError]]:
    try:
        batch.take(key, options.request(read(image)), clock.now())
    except DetectError as error:
        yield key, error


class Stream:
    """One DetectStream call. A thread receives the answers, so that waiting can time out."""

    def __init__(self, method: StreamMethod, metadata: tuple[tuple[str, str], ...]) -> None:
        self._requests: queue.SimpleQueue[pb.DetectRequest | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[pb.DetectStreamResponse | DetectError]
        self._events = queue.SimpleQueue()
        self._call = method(iter(self._requests.get, None), metadata=metadata)
        self._reader = threading.Thread(target=self._read, name="hilum-stream", daemon=True)
        self._reader.start()

    def send(self, request: pb.DetectRequest) -> None:
        """Queue a request. This never blocks, because the batch bounds the queue."""
        self._requests.put(request)

    def receive(self, timeout_s: float) -> pb.DetectStreamResponse | DetectError | None:
        """Return the next answer or the stream's end; None if there is none in time."""
        try:
            return self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def close(self, *, goodbye: bool = False) -> None:
        """Cancel the call; with `goodbye` wait for the agent to end it first."""
        self._requests.put(None)
        if goodbye:
            self._reader.join(_GOODBYE_S)
        self._call.cancel()
        self._reader.join()

    def _read(self) -> None:
        try:
            for message in self._call:
                self._events.put(message)
        except grpc.RpcError as failure:
            self._events.put(errors.from_rpc(failure))
        else:
            self._events.put(ended_early())
