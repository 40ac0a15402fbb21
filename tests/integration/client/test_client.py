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
    BOTH,
    DIGEST,
    Agent,
    PatientClock,
    Threaded,
    abort,
    answer,
    image_size_of,
    running,
)

Status = grpc.StatusCode
both = pytest.mark.parametrize("face", BOTH)


@pytest.fixture
def agent() -> Iterator[Agent]:
    with running() as agent:
        yield agent


@pytest.fixture
def closed_port() -> Iterator[int]:
    # Bound but not listening: refuses, and nobody else can take it meanwhile.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@both
def test_an_answer_becomes_a_result(face: Any, agent: Agent) -> None:
    result = face(agent.address).detect(b"x" * 9, threshold=0.5, priority="stat")
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


@both
def test_images_come_as_paths_bytes_and_open_files(face: Any, agent: Agent, tmp_path: Path) -> None:
    data = b"a study image"
    path = tmp_path / "image.dcm"
    path.write_bytes(data)
    sources = (path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data))
    for source in sources:
        assert image_size_of(face(agent.address).detect(source)) == len(data)
    assert [request.image for request in agent.requests] == [data] * len(sources)
    assert len({request.request_id for request in agent.requests}) == len(sources)
    assert not agent.requests[0].options.HasField("score_threshold")


@both
def test_a_file_that_cannot_be_read_is_a_coded_error(
    face: Any, agent: Agent, tmp_path: Path
) -> None:
    with pytest.raises(DetectError) as caught:
        face(agent.address).detect(tmp_path / "none.dcm")
    assert caught.value.code == ClientErrorCode.FILE_UNREADABLE
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(TypeError, match="binary"):
        face(agent.address).detect(io.StringIO("text"))
    assert not agent.requests


@both
def test_a_refusal_is_told_in_the_agents_words_and_never_sent_again(
    face: Any, agent: Agent
) -> None:
    agent.answer = lambda _request, context: abort(
        context, Status.INVALID_ARGUMENT, ErrorCode.BODY_PART_NOT_CHEST
    )
    with pytest.raises(DetectError) as caught:
        face(agent.address).detect(b"an ankle")
    error = caught.value
    assert (error.code, error.message, error.hint, error.retryable) == (
        ErrorCode.BODY_PART_NOT_CHEST,
        "What is wrong.",
        "What to do.",
        False,
    )
    assert len(agent.requests) == 1


@both
def test_overload_is_waited_out_as_long_as_the_agent_asks(face: Any, agent: Agent) -> None:
    def twice_overloaded(request: pb.DetectRequest, context: Any) -> pb.DetectResponse:
        if len(agent.requests) == 1:
            abort(context, Status.RESOURCE_EXHAUSTED, ErrorCode.OVERLOADED)
        if len(agent.requests) == 2:
            abort(context, Status.RESOURCE_EXHAUSTED, ErrorCode.OVERLOADED, retry_after_ms=3000)
        return answer(request)

    agent.answer = twice_overloaded
    clock = PatientClock()
    retry = Retry(first_wait_s=0.1, random=lambda: 1.0)
    result = face(agent.address, clock=clock, retry=retry).detect(b"x" * 5)
    assert image_size_of(result) == 5
    assert clock.waits == [pytest.approx(0.1), pytest.approx(3.2)]
    assert len({request.request_id for request in agent.requests}) == 1


@both
def test_lasting_overload_ends_within_the_callers_time(face: Any, agent: Agent) -> None:
    agent.answer = lambda _request, context: abort(
        context, Status.RESOURCE_EXHAUSTED, ErrorCode.OVERLOADED
    )
    clock = PatientClock()
    with pytest.raises(DetectError) as caught:
        face(agent.address, clock=clock).detect(b"x", timeout_s=20)
    assert caught.value.code == ErrorCode.OVERLOADED
    assert caught.value.retryable
    assert len(clock.waits) > 5
    assert sum(clock.waits) < 20


@both
def test_no_wait_begins_that_would_outlast_the_callers_time(face: Any, agent: Agent) -> None:
    agent.answer = lambda _request, context: abort(
        context, Status.RESOURCE_EXHAUSTED, ErrorCode.OVERLOADED, retry_after_ms=60_000
    )
    clock = PatientClock()
    with pytest.raises(DetectError) as caught:
        face(agent.address, clock=clock).detect(b"x", timeout_s=30)
    assert caught.value.retry_after_s == 60
    assert not clock.waits


@both
def test_an_agent_that_hangs_is_given_up_at_the_deadline(face: Any, agent: Agent) -> None:
    agent.answer = agent.hang
    with pytest.raises(DetectError) as caught:
        face(agent.address).detect(b"x", timeout_s=0.3)
    assert caught.value.code == ErrorCode.DEADLINE_EXCEEDED
    assert len(agent.requests) == 1


@both
def test_an_agent_that_stops_mid_call_is_an_error_that_may_be_tried_again(
    face: Any, agent: Agent
) -> None:
    agent.answer = agent.hang
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(face(agent.address, clock=PatientClock()).detect, b"x")
        assert agent.asked.acquire(timeout=30)
        # In-flight handlers are cut off, as when the process dies.
        stopped = agent.server.stop(None)
        with pytest.raises(DetectError) as caught:
            call.result(60)
        agent.release.set()
        stopped.wait()
    assert caught.value.code == ClientErrorCode.UNREACHABLE
    assert caught.value.retryable


def test_a_client_outlives_its_agents_restart() -> None:
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


@both
def test_nobody_there_is_told_after_a_few_tries(face: Any, closed_port: int) -> None:
    clock = PatientClock()
    with pytest.raises(DetectError) as caught:
        face(f"127.0.0.1:{closed_port}", clock=clock, retry=Retry(attempts=3)).detect(b"x")
    assert caught.value.code == ClientErrorCode.UNREACHABLE
    assert caught.value.hint
    assert len(clock.waits) == 2


@both
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
def test_an_answer_that_is_not_whole_or_anothers_is_never_a_result(
    face: Any, agent: Agent, spoil: Any
) -> None:
    def spoilt(request: pb.DetectRequest, _context: Any) -> pb.DetectResponse:
        response = answer(request)
        spoil(response)
        return response

    agent.answer = spoilt
    with pytest.raises(DetectError) as caught:
        face(agent.address).detect(b"x")
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
@both
def test_a_bare_status_gets_a_code_and_is_not_tried_again(
    face: Any, agent: Agent, status: grpc.StatusCode, code: str
) -> None:
    agent.answer = lambda _request, context: context.abort(status, "")
    with pytest.raises(DetectError) as caught:
        face(agent.address).detect(b"x")
    assert caught.value.code == code
    assert caught.value.message
    assert not caught.value.retryable
    assert len(agent.requests) == 1


@both
@pytest.mark.parametrize("noise", [b"\xff\xff\xff", b"", pb.Error().SerializeToString()])
def test_error_metadata_that_cannot_be_read_falls_back_to_the_status(
    face: Any, agent: Agent, noise: bytes
) -> None:
    def noisy(_request: pb.DetectRequest, context: Any) -> pb.DetectResponse:
        context.set_trailing_metadata(
            (("hilum-error-bin", noise), ("hilum-retry-after-ms", "soon"))
        )
        context.abort(Status.PERMISSION_DENIED, "")

    agent.answer = noisy
    with pytest.raises(DetectError) as caught:
        face(agent.address).detect(b"x")
    assert (caught.value.code, caught.value.retry_after_s) == (ErrorCode.FORBIDDEN, None)


@both
def test_a_newer_agents_code_is_passed_on(face: Any, agent: Agent) -> None:
    agent.answer = lambda _request, context: abort(context, Status.INTERNAL, "of_the_future")
    with pytest.raises(DetectError) as caught:
        face(agent.address).detect(b"x")
    assert caught.value.code == "of_the_future"


@both
def test_a_file_over_the_agents_limit_is_not_mistaken_for_overload(face: Any) -> None:
    with running(options=()) as agent, pytest.raises(DetectError) as caught:
        face(agent.address, clock=PatientClock()).detect(b"x" * (5 * 2**20))
    assert (caught.value.code, caught.value.retryable) == (ErrorCode.TOO_LARGE, False)
    assert not agent.requests


@both
def test_a_64_megapixel_file_fits(face: Any, agent: Agent) -> None:
    size = 132 * 2**20
    agent.answer = lambda request, _context: answer(
        pb.DetectRequest(request_id=request.request_id, image=str(len(request.image)).encode())
    )
    assert image_size_of(face(agent.address).detect(bytes(size))) == len(str(size))
    assert len(agent.requests[0].image) == size


@both
def test_what_can_never_be_asked_for_is_not_sent(face: Any, agent: Agent) -> None:
    for options in (
        {"threshold": 0},
        {"threshold": 1.5},
        {"priority": "urgent"},
        {"timeout_s": 0},
        {"timeout_s": float("inf")},
        {"timeout_s": float("nan")},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            face(agent.address).detect(b"x", **options)
    assert not agent.requests


@both
def test_the_model_names_itself(face: Any, agent: Agent) -> None:
    model = face(agent.address).model()
    assert (model.name, model.bundle_digest, model.input_width) == ("starter", DIGEST, 640)
    assert tuple(finding.entry for finding in model.findings) == CATALOG
    assert {finding.operating_point for finding in model.findings} == {0.25}


@both
def test_ready_waits_until_the_agent_serves(face: Any, agent: Agent) -> None:
    agent.serving(False)
    client = face(agent.address)
    assert not client.ready(0.2)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.ready, 60)
        agent.serving()
        assert waiting.result(60)


@both
def test_ready_is_false_where_nobody_answers(face: Any, closed_port: int) -> None:
    assert not face(f"127.0.0.1:{closed_port}").ready(0.3)


@both
def test_ready_says_when_waiting_is_useless(face: Any) -> None:
    # A gRPC server that is no agent: it knows no health service.
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(DetectError) as caught:
            face(f"127.0.0.1:{port}").ready(30)
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
    gone = threading.Event()

    def wait_for_the_end(request: pb.DetectRequest, context: Any) -> pb.DetectResponse:
        context.add_callback(gone.set)
        return agent.hang(request, context)

    agent.answer = wait_for_the_end
    async with AsyncClient(agent.address) as client:
        call = asyncio.create_task(client.detect(b"x"))
        assert await asyncio.to_thread(agent.asked.acquire, timeout=30)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(gone.wait, 30)


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

    async def many() -> None:
        async for _ in client.detect_many([(1, b"x")]):
            pass

    agent.answer, agent.answer_stream = agent.hang, hang
    client = AsyncClient(agent.address)
    calls = [asyncio.create_task(client.detect(b"x")), asyncio.create_task(many())]
    for _ in calls:
        assert await asyncio.to_thread(agent.asked.acquire, timeout=30)
    await client.close()
    for error in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(error, DetectError)
        assert error.code == ClientErrorCode.CANCELLED


@both
def test_a_proxy_is_never_used(
    face: Any, agent: Agent, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert os.environ["http_proxy"]
    assert image_size_of(face(agent.address).detect(b"x" * 4)) == 4


def test_a_unix_socket_is_an_address_too(tmp_path: Path) -> None:
    with running(address=f"unix:{tmp_path}/hilum.sock") as agent:
        assert image_size_of(Threaded(agent.address, api_key="key").detect(b"xy")) == 2
        assert agent.metadata[0]["authorization"] == "Bearer key"
