"""One image at a time: both clients against a real gRPC server on loopback."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from hilum.catalog import CATALOG
from hilum.client import (
    AsyncClient,
    Client,
    ClientErrorCode,
    DetectError,
    ErrorCode,
    ImageWarning,
    Retry,
)
from hilum.v1 import detection_pb2 as pb
from tests.support.agents.scripted import (
    CLIENT_TYPES,
    DIGEST,
    Agent,
    BlockingClient,
    PatientClock,
    abort,
    answer,
    image_size_of,
    running,
)

Status = grpc.StatusCode
each_client_type = pytest.mark.parametrize("client_type", CLIENT_TYPES)


@pytest.fixture
def agent() -> Iterator[Agent]:
    with running() as agent:
        yield agent


@pytest.fixture
def closed_port() -> Iterator[int]:
    # A bound socket that does not listen refuses calls, and no other process can take the port.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@each_client_type
def test_an_answer_becomes_a_result(client_type: Any, agent: Agent) -> None:
    result = client_type(agent.address).detect(b"x" * 9, threshold=0.5, priority="stat")
    [finding] = result.findings
    assert (finding.entry, finding.score) == (CATALOG[8], 0.75)
    assert finding.box.fractions(result.image) == (1 / 200, 2 / 100, 10 / 200, 4 / 100)
    assert result.warnings == (ImageWarning("ap_view", "An AP view."),)
    assert (result.bundle_digest, result.engine) == (DIGEST, "openvino-int8")
    assert result.timings.total_ms == 10
    [request] = agent.requests
    assert request.request_id == result.request_id
    assert request.options == pb.DetectOptions(score_threshold=0.5, priority=pb.PRIORITY_STAT)
    assert "authorization" not in agent.metadata[0]


@each_client_type
def test_images_come_as_paths_bytes_and_open_files(
    client_type: Any, agent: Agent, tmp_path: Path
) -> None:
    data = b"a study image"
    path = tmp_path / "image.dcm"
    path.write_bytes(data)
    sources = (path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data))
    for source in sources:
        assert image_size_of(client_type(agent.address).detect(source)) == len(data)
    assert [request.image for request in agent.requests] == [data] * len(sources)
    assert len({request.request_id for request in agent.requests}) == len(sources)
    assert not agent.requests[0].options.HasField("score_threshold")


@each_client_type
def test_a_file_that_cannot_be_read_is_a_coded_error(
    client_type: Any, agent: Agent, tmp_path: Path
) -> None:
    with pytest.raises(DetectError) as caught:
        client_type(agent.address).detect(tmp_path / "none.dcm")
    assert caught.value.code == ClientErrorCode.FILE_UNREADABLE
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(TypeError, match="binary"):
        client_type(agent.address).detect(io.StringIO("text"))
    assert not agent.requests


@each_client_type
def test_a_refusal_has_the_agents_message_and_is_never_sent_again(
    client_type: Any, agent: Agent
) -> None:
    agent.answer = lambda _request, context: abort(
        context, Status.INVALID_ARGUMENT, ErrorCode.BODY_PART_NOT_CHEST
    )
    with pytest.raises(DetectError) as caught:
        client_type(agent.address).detect(b"an ankle")
    error = caught.value
    assert (error.code, error.message, error.hint, error.retryable) == (
        ErrorCode.BODY_PART_NOT_CHEST,
        "What is wrong.",
        "What to do.",
        False,
    )
    assert len(agent.requests) == 1


@each_client_type
def test_an_overloaded_agent_is_called_again_after_the_delay_that_it_asks_for(
    client_type: Any, agent: Agent
) -> None:
    def overload_twice(request: pb.DetectRequest, context: Any) -> pb.DetectResponse:
        if len(agent.requests) == 1:
            abort(context, Status.RESOURCE_EXHAUSTED, ErrorCode.OVERLOADED)
        if len(agent.requests) == 2:
            abort(context, Status.RESOURCE_EXHAUSTED, ErrorCode.OVERLOADED, retry_after_ms=3000)
        return answer(request)

    agent.answer = overload_twice
    clock = PatientClock()
    retry = Retry(first_wait_s=0.1, random=lambda: 1.0)
    result = client_type(agent.address, clock=clock, retry=retry).detect(b"x" * 5)
    assert image_size_of(result) == 5
    assert clock.waits == [pytest.approx(0.1), pytest.approx(3.2)]
    assert len({request.request_id for request in agent.requests}) == 1


@each_client_type
def test_lasting_overload_is_an_error_within_the_callers_time(
    client_type: Any, agent: Agent
) -> None:
    agent.answer = lambda _request, context: abort(
        context, Status.RESOURCE_EXHAUSTED, ErrorCode.OVERLOADED
    )
    clock = PatientClock()
    with pytest.raises(DetectError) as caught:
        client_type(agent.address, clock=clock).detect(b"x", timeout_s=20)
    assert caught.value.code == ErrorCode.OVERLOADED
    assert caught.value.retryable
    assert len(clock.waits) > 5
    assert sum(clock.waits) < 20


@each_client_type
def test_the_client_never_waits_beyond_the_callers_time(client_type: Any, agent: Agent) -> None:
    agent.answer = lambda _request, context: abort(
        context, Status.RESOURCE_EXHAUSTED, ErrorCode.OVERLOADED, retry_after_ms=60_000
    )
    clock = PatientClock()
    with pytest.raises(DetectError) as caught:
        client_type(agent.address, clock=clock).detect(b"x", timeout_s=30)
    assert caught.value.retry_after_s == 60
    assert not clock.waits


@each_client_type
def test_an_agent_that_hangs_is_an_error_at_the_deadline(client_type: Any, agent: Agent) -> None:
    agent.answer = agent.hang
    with pytest.raises(DetectError) as caught:
        client_type(agent.address).detect(b"x", timeout_s=0.3)
    assert caught.value.code == ErrorCode.DEADLINE_EXCEEDED
    assert len(agent.requests) == 1


@each_client_type
def test_an_agent_that_stops_during_a_call_is_a_retryable_error(
    client_type: Any, agent: Agent
) -> None:
    agent.answer = agent.hang
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client_type(agent.address, clock=PatientClock()).detect, b"x")
        assert agent.asked.acquire(timeout=30)
        # Handlers in flight are cancelled, as when the process dies.
        stopped = agent.server.stop(None)
        with pytest.raises(DetectError) as caught:
            call.result(60)
        agent.release.set()
        stopped.wait()
    assert caught.value.code == ClientErrorCode.UNREACHABLE
    assert caught.value.retryable


def test_a_client_works_again_after_its_agent_has_restarted() -> None:
    with running() as first, Client(first.address, retry=Retry(attempts=1)) as client:
        client.detect(b"x")
        first.stop()
        with pytest.raises(DetectError):
            client.detect(b"x")
        second = Agent()
        second.start(first.address)
        second.serving()
        try:
            assert client.ready(30)
            assert image_size_of(client.detect(b"x" * 3)) == 3
        finally:
            second.stop()


@each_client_type
def test_an_unreachable_agent_is_reported_after_a_few_attempts(
    client_type: Any, closed_port: int
) -> None:
    clock = PatientClock()
    with pytest.raises(DetectError) as caught:
        client_type(f"127.0.0.1:{closed_port}", clock=clock, retry=Retry(attempts=3)).detect(b"x")
    assert caught.value.code == ClientErrorCode.UNREACHABLE
    assert caught.value.hint
    assert len(clock.waits) == 2


@each_client_type
@pytest.mark.parametrize(
    "spoil",
    [
        lambda response: response.MergeFrom(pb.DetectResponse(request_id="another")),
        lambda response: response.Clear(),
        lambda response: response.ClearField("bundle_digest"),
        lambda response: response.ClearField("engine"),
        lambda response: response.ClearField("image"),
        lambda response: response.findings[0].MergeFrom(pb.Finding(index=9)),
        lambda response: response.findings[0].MergeFrom(pb.Finding(slug="new_finding")),
        lambda response: response.findings[0].MergeFrom(pb.Finding(score=float("nan"))),
        lambda response: response.findings[0].box.MergeFrom(pb.Box(x_min=1e9)),
    ],
)
def test_an_incomplete_or_foreign_response_is_never_a_result(
    client_type: Any, agent: Agent, spoil: Any
) -> None:
    def respond(request: pb.DetectRequest, _context: Any) -> pb.DetectResponse:
        response = answer(request)
        spoil(response)
        return response

    agent.answer = respond
    with pytest.raises(DetectError) as caught:
        client_type(agent.address).detect(b"x")
    assert caught.value.code == ClientErrorCode.WRONG_ANSWER
    assert not caught.value.retryable
    assert len(agent.requests) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (Status.UNAUTHENTICATED, ErrorCode.UNAUTHENTICATED),
        (Status.PERMISSION_DENIED, ErrorCode.FORBIDDEN),
        (Status.INVALID_ARGUMENT, ErrorCode.INVALID_REQUEST),
        (Status.UNIMPLEMENTED, ClientErrorCode.NOT_AN_AGENT),
        (Status.CANCELLED, ClientErrorCode.CANCELLED),
        (Status.INTERNAL, ErrorCode.INTERNAL),
        (Status.UNKNOWN, ErrorCode.INTERNAL),
        (Status.DATA_LOSS, ErrorCode.INTERNAL),
    ],
)
@each_client_type
def test_a_status_without_metadata_gets_a_code_and_is_not_retried(
    client_type: Any, agent: Agent, status: grpc.StatusCode, code: str
) -> None:
    agent.answer = lambda _request, context: context.abort(status, "")
    with pytest.raises(DetectError) as caught:
        client_type(agent.address).detect(b"x")
    assert caught.value.code == code
    assert caught.value.message
    assert not caught.value.retryable
    assert len(agent.requests) == 1


@each_client_type
@pytest.mark.parametrize("noise", [b"\xff\xff\xff", b"", pb.Error().SerializeToString()])
def test_the_status_counts_if_the_error_metadata_cannot_be_read(
    client_type: Any, agent: Agent, noise: bytes
) -> None:
    def abort_with_noise(_request: pb.DetectRequest, context: Any) -> pb.DetectResponse:
        context.set_trailing_metadata(
            (("hilum-error-bin", noise), ("hilum-retry-after-ms", "soon"))
        )
        context.abort(Status.PERMISSION_DENIED, "")

    agent.answer = abort_with_noise
    with pytest.raises(DetectError) as caught:
        client_type(agent.address).detect(b"x")
    assert (caught.value.code, caught.value.retry_after_s) == (ErrorCode.FORBIDDEN, None)


@each_client_type
def test_an_unknown_code_of_a_newer_agent_is_kept(client_type: Any, agent: Agent) -> None:
    agent.answer = lambda _request, context: abort(context, Status.INTERNAL, "of_the_future")
    with pytest.raises(DetectError) as caught:
        client_type(agent.address).detect(b"x")
    assert caught.value.code == "of_the_future"


@each_client_type
def test_a_file_over_the_agents_limit_is_not_reported_as_overload(client_type: Any) -> None:
    with running(options=()) as agent, pytest.raises(DetectError) as caught:
        client_type(agent.address, clock=PatientClock()).detect(b"x" * (5 * 2**20))
    assert (caught.value.code, caught.value.retryable) == (ErrorCode.TOO_LARGE, False)
    assert not agent.requests


@each_client_type
def test_a_64_megapixel_file_can_be_sent(client_type: Any, agent: Agent) -> None:
    size = 132 * 2**20
    agent.answer = lambda request, _context: answer(
        pb.DetectRequest(request_id=request.request_id, image=str(len(request.image)).encode())
    )
    assert image_size_of(client_type(agent.address).detect(bytes(size))) == len(str(size))
    assert len(agent.requests[0].image) == size


@each_client_type
def test_invalid_options_are_not_sent(client_type: Any, agent: Agent) -> None:
    for options in (
        {"threshold": 0},
        {"threshold": 1.5},
        {"priority": "urgent"},
        {"timeout_s": 0},
        {"timeout_s": float("inf")},
        {"timeout_s": float("nan")},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            client_type(agent.address).detect(b"x", **options)
    assert not agent.requests


@each_client_type
def test_model_describes_the_agents_model(client_type: Any, agent: Agent) -> None:
    model = client_type(agent.address).model()
    assert (model.name, model.bundle_digest, model.input_width) == ("starter", DIGEST, 640)
    assert tuple(finding.entry for finding in model.findings) == CATALOG
    assert {finding.operating_point for finding in model.findings} == {0.25}


@each_client_type
def test_ready_waits_until_the_agent_serves(client_type: Any, agent: Agent) -> None:
    agent.serving(False)
    client = client_type(agent.address)
    assert not client.ready(0.2)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.ready, 60)
        agent.serving()
        assert waiting.result(60)


@each_client_type
def test_ready_is_false_if_no_agent_responds(client_type: Any, closed_port: int) -> None:
    assert not client_type(f"127.0.0.1:{closed_port}").ready(0.3)


@each_client_type
def test_ready_is_an_error_if_the_server_is_no_agent(client_type: Any) -> None:
    # This gRPC server is no agent: it has no health service.
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(DetectError) as caught:
            client_type(f"127.0.0.1:{port}").ready(30)
    finally:
        server.stop(None).wait()
    assert caught.value.code == ClientErrorCode.NOT_AN_AGENT


def test_one_client_serves_many_threads_without_mixing_answers(agent: Agent) -> None:
    sizes = range(1, 200)
    with Client(agent.address) as client, ThreadPoolExecutor(16) as threads:
        results = list(threads.map(lambda size: client.detect(b"x" * size), sizes))
    assert [image_size_of(result) for result in results] == list(sizes)


async def test_one_async_client_serves_many_tasks_without_mixing_answers(agent: Agent) -> None:
    sizes = range(1, 200)
    async with AsyncClient(agent.address) as client:
        results = await asyncio.gather(*(client.detect(b"x" * size) for size in sizes))
    assert [image_size_of(result) for result in results] == list(sizes)


async def test_a_cancelled_call_is_cancelled_at_the_agent(agent: Agent) -> None:
    cancelled = threading.Event()

    def hang_until_cancelled(request: pb.DetectRequest, context: Any) -> pb.DetectResponse:
        context.add_callback(cancelled.set)
        return agent.hang(request, context)

    agent.answer = hang_until_cancelled
    async with AsyncClient(agent.address) as client:
        call = asyncio.create_task(client.detect(b"x"))
        assert await asyncio.to_thread(agent.asked.acquire, timeout=30)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(cancelled.wait, 30)


def test_closing_a_client_ends_its_calls_with_a_code(agent: Agent) -> None:
    agent.answer = agent.hang
    client = Client(agent.address)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.detect, b"x")
        assert agent.asked.acquire(timeout=30)
        client.close()
        with pytest.raises(DetectError) as caught:
            call.result(30)
    assert caught.value.code == ClientErrorCode.CANCELLED


async def test_closing_an_async_client_ends_its_calls_with_a_code(agent: Agent) -> None:
    def hang(requests: Iterator[pb.DetectRequest], _context: Any) -> Iterator[Any]:
        next(requests)
        agent.release.wait()
        return iter(())

    async def detect_one() -> None:
        async for _ in client.detect_many([(1, b"x")]):
            pass

    agent.answer, agent.answer_stream = agent.hang, hang
    client = AsyncClient(agent.address)
    calls = [asyncio.create_task(client.detect(b"x")), asyncio.create_task(detect_one())]
    for _ in calls:
        assert await asyncio.to_thread(agent.asked.acquire, timeout=30)
    await client.close()
    for error in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(error, DetectError)
        assert error.code == ClientErrorCode.CANCELLED


@each_client_type
def test_a_proxy_is_never_used(
    client_type: Any, agent: Agent, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert os.environ["http_proxy"]
    assert image_size_of(client_type(agent.address).detect(b"x" * 4)) == 4


def test_a_unix_socket_is_an_address(tmp_path: Path) -> None:
    with running(address=f"unix:{tmp_path}/hilum.sock") as agent:
        assert image_size_of(BlockingClient(agent.address, api_key="key").detect(b"xy")) == 2
        assert agent.metadata[0]["authorization"] == "Bearer key"
