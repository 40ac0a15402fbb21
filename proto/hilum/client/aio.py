"""The client for asyncio programs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any, Self, TypeVar, overload

import grpc

from hilum.client import convert, errors, health
from hilum.client.aio_stream import (
    Stream,
    StreamMethod,
    detect_stream,
    is_cancelled,
    pair_images_async,
)
from hilum.client.batch import Batch, Key
from hilum.client.connection import Connection, Tls
from hilum.client.errors import DetectError
from hilum.client.request import (
    ImageSource,
    Options,
    Priority,
    check_timeout,
    read_image,
)
from hilum.client.results import Model, Result
from hilum.client.retry import Clock, Retry
from hilum.v1 import detection_pb2 as pb
from hilum.v1.detection_pb2_grpc import DetectorStub

PathKey = TypeVar("PathKey", bound=str | os.PathLike[str])
_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class AsyncClient:
    """A client of one edge agent, for one event loop. Arguments and errors are those of `Client`.

    A cancelled call is cancelled at the agent, too, which frees its place in the queue.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: Tls | None = None,
        api_key: str | None = None,
        api_key_file: str | os.PathLike[str] | None = None,
        retry: Retry | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._connection = Connection.prepare(address, tls, api_key, api_key_file)
        self._retry = retry or Retry()
        self._clock = clock or Clock()
        self._methods: _Methods | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls in progress fail with `cancelled`."""
        if self._methods is not None:
            await self._methods.channel.close(None)

    async def detect(
        self,
        image: ImageSource,
        *,
        threshold: float | None = None,
        priority: Priority = "routine",
        timeout_s: float = 30.0,
        model: str = "",
    ) -> Result:
        """Detect findings on one radiograph; see `Client.detect`."""
        options = Options(threshold, priority, timeout_s, model)
        request = options.make_request(await asyncio.to_thread(read_image, image))
        response = await self._call(self._rpc.detect, request, timeout_s)
        return convert.to_result(response, request.request_id)

    @overload
    def detect_many(
        self,
        images: Iterable[tuple[Key, ImageSource]] | AsyncIterable[tuple[Key, ImageSource]],
        *,
        concurrency: int = 4,
        threshold: float | None = None,
        priority: Priority = "routine",
        timeout_s: float = 30.0,
        model: str = "",
    ) -> AsyncIterator[tuple[Key, Result | DetectError]]: ...

    @overload
    def detect_many(
        self,
        images: Iterable[PathKey] | AsyncIterable[PathKey],
        *,
        concurrency: int = 4,
        threshold: float | None = None,
        priority: Priority = "routine",
        timeout_s: float = 30.0,
        model: str = "",
    ) -> AsyncIterator[tuple[PathKey, Result | DetectError]]: ...

    def detect_many(
        self,
        images: Iterable[Any] | AsyncIterable[Any],
        *,
        concurrency: int = 4,
        threshold: float | None = None,
        priority: Priority = "routine",
        timeout_s: float = 30.0,
        model: str = "",
    ) -> AsyncIterator[tuple[Any, Result | DetectError]]:
        """Detect findings on many radiographs over one stream; yield them as they finish.

        See `Client.detect_many`. `images` may be an async iterable, too; answers are yielded
        while it waits for its next image. If iteration may end early, wrap it in
        `contextlib.aclosing`, so that the stream is closed at once and not when the generator is
        collected.
        """
        options = Options(threshold, priority, timeout_s, model)
        batch: Batch[Any] = Batch(concurrency, timeout_s, self._retry)
        return detect_stream(
            pair_images_async(images),
            options,
            batch,
            lambda: Stream(self._rpc.detect_stream, self._connection.metadata),
            self._clock,
        )

    async def model(self, name: str = "", *, timeout_s: float = 10.0) -> Model:
        """Return the description of the model; see `Client.model`."""
        check_timeout(timeout_s)
        request = pb.GetModelRequest(model=name)
        return convert.to_model(await self._call(self._rpc.get_model, request, timeout_s))

    async def ready(self, timeout_s: float = 10.0) -> bool:
        """Wait until the agent answers requests; see `Client.ready`."""
        check_timeout(timeout_s)
        deadline = self._clock.now() + timeout_s
        attempt = 0
        while (remaining_s := deadline - self._clock.now()) > 0:
            try:
                if await self._wait_until_serving(remaining_s):
                    return True
            except grpc.aio.AioRpcError as failure:
                error = errors.from_rpc(failure)
                if not error.retryable:
                    raise error from failure
            attempt += 1
            await self._clock.sleep_async(min(self._retry.compute_pause_s(attempt), remaining_s))
        return False

    @property
    def _rpc(self) -> _Methods:
        # Created on first use, because a channel belongs to the running event loop.
        if self._methods is None:
            self._methods = _Methods(self._connection.open_channel_async())
        return self._methods

    async def _wait_until_serving(self, timeout_s: float) -> bool:
        health_stream = self._rpc.watch(
            health.WHOLE_AGENT, timeout=timeout_s, metadata=self._connection.metadata
        )
        try:
            async for status in health_stream:
                if status.value == health.SERVING:
                    return True
            return False
        finally:
            health_stream.cancel()

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout_s: float,
    ) -> _Response:
        deadline = self._clock.now() + timeout_s
        remaining_s = timeout_s
        attempt = 1
        while True:
            call = method(request, timeout=remaining_s, metadata=self._connection.metadata)
            try:
                return await call
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                raise errors.cancelled_error() from None
            except grpc.aio.AioRpcError as failure:
                error = errors.from_rpc(failure)
                remaining_s = deadline - self._clock.now()
                wait_s = self._retry.compute_wait_s(error, attempt, remaining_s)
                if wait_s is None:
                    raise error from failure
            await self._clock.sleep_async(wait_s)
            remaining_s -= wait_s
            attempt += 1


class _Methods:
    """Typed stubs of the agent's methods on one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        stub = DetectorStub(channel)
        self.detect: grpc.aio.UnaryUnaryMultiCallable[pb.DetectRequest, pb.DetectResponse]
        self.detect = stub.Detect
        self.detect_stream: StreamMethod = stub.DetectStream
        self.get_model: grpc.aio.UnaryUnaryMultiCallable[pb.GetModelRequest, pb.GetModelResponse]
        self.get_model = stub.GetModel
        self.watch: grpc.aio.UnaryStreamMultiCallable[health.StringValue, health.Int32Value]
        self.watch = channel.unary_stream(
            health.WATCH, health.StringValue.SerializeToString, health.Int32Value.FromString
        )
