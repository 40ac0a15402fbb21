"""A real gRPC server whose responses a test scripts, and both clients with one interface."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from hilum.catalog import CATALOG
from hilum.client import AsyncClient, Client, Clock, DetectError, Model, Result
from hilum.v1 import detection_pb2 as pb
from hilum.v1 import detection_pb2_grpc as pb_grpc

DIGEST = "ab" * 32
UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0))

Answer = Callable[[pb.DetectRequest, grpc.ServicerContext], pb.DetectResponse]
AnswerStream = Callable[
    [Iterator[pb.DetectRequest], grpc.ServicerContext], Iterable[pb.DetectStreamResponse]
]


def answer(
    request: pb.DetectRequest, _context: grpc.ServicerContext | None = None
) -> pb.DetectResponse:
    """Return one finding whose box encodes the image's size, so a response shows its request."""
    kind = CATALOG[8]
    return pb.DetectResponse(
        request_id=request.request_id,
        findings=[
            pb.Finding(
                index=kind.index,
                slug=kind.slug,
                name=kind.name,
                score=0.75,
                box=pb.Box(x_min=1, y_min=2, x_max=1 + len(request.image), y_max=4),
            )
        ],
        image=pb.ImageFacts(rows=100, columns=200, format="dicom", view="AP"),
        warnings=[pb.Warning(code="ap_view", message="An AP view.")],
        bundle_digest=DIGEST,
        engine="openvino-int8",
        timings=pb.Timings(decode_ms=1, queue_ms=2, infer_ms=3, postprocess_ms=4, total_ms=10),
    )


def image_size_of(outcome: Result | DetectError) -> int:
    """Return the size in bytes of the image that a result belongs to."""
    assert isinstance(outcome, Result), outcome
    return round(outcome.findings[0].box.x_max) - 1


def streamed(request: pb.DetectRequest) -> pb.DetectStreamResponse:
    return pb.DetectStreamResponse(request_id=request.request_id, response=answer(request))


def refused(request: pb.DetectRequest, code: str) -> pb.DetectStreamResponse:
    error = pb.Error(code=code, message="No.", hint="Do something else.")
    return pb.DetectStreamResponse(request_id=request.request_id, error=error)


def abort(
    context: grpc.ServicerContext,
    status: grpc.StatusCode,
    code: str,
    *,
    retry_after_ms: int | None = None,
) -> NoReturn:
    error = pb.Error(code=code, message="What is wrong.", hint="What to do.")
    trailing = [("hilum-error-bin", error.SerializeToString())]
    if retry_after_ms is not None:
        trailing.append(("hilum-retry-after-ms", str(retry_after_ms)))
    context.set_trailing_metadata(tuple(trailing))
    context.abort(status, "What is wrong.")


def answer_each(
    requests: Iterator[pb.DetectRequest], _context: grpc.ServicerContext
) -> Iterator[pb.DetectStreamResponse]:
    return map(streamed, requests)


@dataclass
class Agent(pb_grpc.DetectorServicer):
    """A detector that responds with a test's functions and records every request."""

    answer: Answer = answer
    answer_stream: AnswerStream = answer_each
    address: str = ""
    requests: list[pb.DetectRequest] = field(default_factory=list)
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    asked: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    health: health.HealthServicer = field(default_factory=health.HealthServicer)
    server: grpc.Server | None = None

    def Detect(self, request: pb.DetectRequest, context: Any) -> pb.DetectResponse:  # noqa: N802
        self._remember(request, context)
        return self.answer(request, context)

    def DetectStream(  # noqa: N802
        self, requests: Iterator[pb.DetectRequest], context: Any
    ) -> Iterator[pb.DetectStreamResponse]:
        def record() -> Iterator[pb.DetectRequest]:
            for request in requests:
                self._remember(request, context)
                yield request

        yield from self.answer_stream(record(), context)

    def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:  # noqa: N802
        return pb.GetModelResponse(
            name="starter",
            version="1.0.0",
            bundle_digest=DIGEST,
            engine="openvino-int8",
            input_height=640,
            input_width=640,
            findings=[
                pb.ModelFinding(index=kind.index, slug=kind.slug, operating_point=0.25)
                for kind in CATALOG
            ],
        )

    def hang(self, request: pb.DetectRequest, _context: Any) -> pb.DetectResponse:
        """Respond only when the test ends."""
        self.release.wait()
        return answer(request)

    def serving(self, yes: bool = True) -> None:
        state = health_pb2.HealthCheckResponse
        self.health.set("", state.SERVING if yes else state.NOT_SERVING)

    def start(
        self,
        address: str = "127.0.0.1:0",
        credentials: grpc.ServerCredentials | None = None,
        options: tuple[tuple[str, int], ...] = UNLIMITED,
    ) -> None:
        self.server = grpc.server(ThreadPoolExecutor(32), options=options)
        pb_grpc.add_DetectorServicer_to_server(self, self.server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        if credentials is None:
            port = self.server.add_insecure_port(address)
        else:
            port = self.server.add_secure_port(address, credentials)
        self.address = address if address.startswith("unix:") else f"127.0.0.1:{port}"
        self.server.start()

    def stop(self) -> None:
        assert self.server is not None
        self.server.stop(None).wait()

    def _remember(self, request: pb.DetectRequest, context: Any) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.asked.release()


@contextmanager
def running(
    *,
    address: str = "127.0.0.1:0",
    credentials: grpc.ServerCredentials | None = None,
    options: tuple[tuple[str, int], ...] = UNLIMITED,
) -> Iterator[Agent]:
    agent = Agent()
    agent.start(address, credentials, options)
    try:
        yield agent
    finally:
        agent.release.set()
        agent.stop()


class PatientClock(Clock):
    """A clock that records each wait and moves forward without waiting."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._ahead = 0.0

    def now(self) -> float:
        return super().now() + self._ahead

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self._ahead += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


class BlockingClient:
    """A `Client` that is opened for each call."""

    def __init__(self, address: str, **settings: Any) -> None:
        self._open = lambda: Client(address, **settings)

    def detect(self, image: Any, **options: Any) -> Result:
        with self._open() as client:
            return client.detect(image, **options)

    def detect_many(self, images: Iterable[Any], **options: Any) -> list[tuple[Any, Any]]:
        with self._open() as client:
            return list(client.detect_many(images, **options))

    def model(self) -> Model:
        with self._open() as client:
            return client.model()

    def ready(self, timeout_s: float) -> bool:
        with self._open() as client:
            return client.ready(timeout_s)


class AsyncioClient:
    """An `AsyncClient` that is opened for each call, with the interface of `Client`."""

    def __init__(self, address: str, **settings: Any) -> None:
        self._open = lambda: AsyncClient(address, **settings)

    def detect(self, image: Any, **options: Any) -> Result:
        async def call() -> Result:
            async with self._open() as client:
                return await client.detect(image, **options)

        return asyncio.run(call())

    def detect_many(self, images: Iterable[Any], **options: Any) -> list[tuple[Any, Any]]:
        async def call() -> list[tuple[Any, Any]]:
            async with self._open() as client:
                return [pair async for pair in client.detect_many(images, **options)]

        return asyncio.run(call())

    def model(self) -> Model:
        async def call() -> Model:
            async with self._open() as client:
                return await client.model()

        return asyncio.run(call())

    def ready(self, timeout_s: float) -> bool:
        async def call() -> bool:
            async with self._open() as client:
                return await client.ready(timeout_s)

        return asyncio.run(call())


CLIENT_TYPES = (BlockingClient, AsyncioClient)
