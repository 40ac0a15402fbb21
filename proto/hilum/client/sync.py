"""The synchronous client; it may be shared between threads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, Self, TypeVar, overload

import grpc

from hilum.client import convert, errors, health
from hilum.client.batch import Batch, Key
from hilum.client.connection import Connection, Tls
from hilum.client.errors import DetectError
from hilum.client.request import (
    ImageSource,
    Options,
    Priority,
    check_timeout,
    pair_images,
    read_image,
)
from hilum.client.results import Model, Result
from hilum.client.retry import Clock, Retry
from hilum.client.sync_stream import Stream, StreamMethod, detect_stream
from hilum.v1 import detection_pb2 as pb
from hilum.v1.detection_pb2_grpc import DetectorStub

PathKey = TypeVar("PathKey", bound=str | os.PathLike[str])
_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Client:
    """A client of one edge agent.

    Args:
        address: `host:port`, or `unix:/path`. Beyond this machine `tls` is required.
        tls: settings of TLS; None for plain text, on this machine only.
        api_key, api_key_file: the API key, as text or as a file that holds it (give at most one).
        retry: the number of attempts and the waits; see `hilum.client.retry`.
        clock: monotonic time and waiting, which tests replace.

    Raises:
        ValueError: plain text beyond this machine, or settings that contradict each other.
        OSError: a certificate or key file cannot be read.
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
        connection = Connection.prepare(address, tls, api_key, api_key_file)
        self._metadata = connection.metadata
        self._retry = retry or Retry()
        self._clock = clock or Clock()
        self._channel = connection.open_channel()
        stub = DetectorStub(self._channel)
        self._detect: grpc.UnaryUnaryMultiCallable[pb.DetectRequest, pb.DetectResponse]
        self._detect = stub.Detect
        self._detect_stream: StreamMethod = stub.DetectStream
        self._get_model: grpc.UnaryUnaryMultiCallable[pb.GetModelRequest, pb.GetModelResponse]
        self._get_model = stub.GetModel
        self._watch: StreamMethod = self._channel.unary_stream(
            health.WATCH, health.StringValue.SerializeToString, health.Int32Value.FromString
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls in progress fail with `cancelled`."""
        self._channel.close()

    def detect(
        self,
        image: ImageSource,
        *,
        threshold: float | None = None,
        priority: Priority = "routine",
        timeout_s: float = 30.0,
        model: str = "",
    ) -> Result:
        """Detect findings on one radiograph.

        Args:
            image: a path, the file's bytes, or an open binary file: DICOM, JPEG, PNG or TIFF.
            threshold: score from which on findings are reported, above 0 and at most 1; None for
                the model's own operating points.
            priority: `stat` requests run before `routine` ones.
            timeout_s: for the whole call with all retries.
            model: the name of the model; empty means the agent's one model.

        Returns:
            The findings, with the facts about the image and the model.

        Raises:
            DetectError: there is no result; its code is the reason.
            ValueError: the threshold, priority or timeout is out of its range.
        """
        request = Options(threshold, priority, timeout_s, model).make_request(read_image(image))
        return convert.to_result(self._call(self._detect, request, timeout_s), request.request_id)

    @overload
    def detect_many(
        self,
        images: Iterable[tuple[Key, ImageSource]],
        *,
        concurrency: int = 4,
        threshold: float | None = None,
        priority: Priority = "routine",
        timeout_s: float = 30.0,
        model: str = "",
    ) -> Iterator[tuple[Key, Result | DetectError]]: ...

    @overload
    def detect_many(
        self,
        images: Iterable[PathKey],
        *,
        concurrency: int = 4,
        threshold: float | None = None,
        priority: Priority = "routine",
        timeout_s: float = 30.0,
        model: str = "",
    ) -> Iterator[tuple[PathKey, Result | DetectError]]: ...

    def detect_many(
        self,
        images: Iterable[Any],
        *,
        concurrency: int = 4,
        threshold: float | None = None,
        priority: Priority = "routine",
        timeout_s: float = 30.0,
        model: str = "",
    ) -> Iterator[tuple[Any, Result | DetectError]]:
        """Detect findings on many radiographs over one stream; yield them as they finish.

        Files are read as others finish, so that at most `concurrency` images are in memory.

        Args:
            images: paths, which are their own keys, or pairs (key, image). The iterable runs in
                the caller's thread: no answer is yielded while it waits for its next image.
            concurrency: the most images in progress at once.
            threshold, priority, model: as for `detect`.
            timeout_s: for each image, from the time at which it is read.

        Yields:
            The key with the `Result`, or with the `DetectError` of this image. Each image that was
            read is yielded once.

        Raises:
            DetectError: the agent can no longer be reached; images not yet yielded have no result.
            ValueError: an argument is out of its range.
        """
        options = Options(threshold, priority, timeout_s, model)
        batch: Batch[Any] = Batch(concurrency, timeout_s, self._retry)
        return detect_stream(
            pair_images(images),
            options,
            batch,
            lambda: Stream(self._detect_stream, self._metadata),
            self._clock,
        )

    def model(self, name: str = "", *, timeout_s: float = 10.0) -> Model:
        """Return the description of the model and of its engine.

        Args:
            name: the name of the model; empty means the agent's one model.
            timeout_s: for the whole call with all retries.

        Raises:
            DetectError: the call failed.
        """
        check_timeout(timeout_s)
        request = pb.GetModelRequest(model=name)
        return convert.to_model(self._call(self._get_model, request, timeout_s))

    def ready(self, timeout_s: float = 10.0) -> bool:
        """Wait until the agent serves; return False if it does not within `timeout_s`.

        Raises:
            DetectError: the error is not temporary (TLS, credentials, not an agent).
        """
        check_timeout(timeout_s)
        deadline = self._clock.now() + timeout_s
        attempt = 0
        while (remaining_s := deadline - self._clock.now()) > 0:
            try:
                if self._wait_until_serving(remaining_s):
                    return True
            except grpc.RpcError as failure:
                error = errors.from_rpc(failure)
                if not error.retryable:
                    raise error from failure
            attempt += 1
            self._clock.sleep(min(self._retry.compute_pause_s(attempt), remaining_s))
        return False

    def _wait_until_serving(self, timeout_s: float) -> bool:
        health_stream = self._watch(health.WHOLE_AGENT, timeout=timeout_s, metadata=self._metadata)
        try:
            return any(status.value == health.SERVING for status in health_stream)
        finally:
            health_stream.cancel()

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout_s: float,
    ) -> _Response:
        deadline = self._clock.now() + timeout_s
        remaining_s = timeout_s
        attempt = 1
        while True:
            try:
                return method(request, timeout=remaining_s, metadata=self._metadata)
            except grpc.RpcError as failure:
                error = errors.from_rpc(failure)
                remaining_s = deadline - self._clock.now()
                wait_s = self._retry.compute_wait_s(error, attempt, remaining_s)
                if wait_s is None:
                    raise error from failure
            self._clock.sleep(wait_s)
            remaining_s -= wait_s
            attempt += 1
