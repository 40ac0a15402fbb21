"""Many images over one stream: both clients against a real gRPC server on loopback."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import pytest

from hilum.client import (
    AsyncClient,
    Client,
    ClientErrorCode,
    DetectError,
    ErrorCode,
    Retry,
)
from hilum.v1 import detection_pb2 as pb
from tests.support.agents.scripted import (
    CLIENT_TYPES,
    Agent,
    AsyncioClient,
    PatientClock,
    abort,
    image_size_of,
    refused,
    running,
    streamed,
)

each_client_type = pytest.mark.parametrize("client_type", CLIENT_TYPES)
# The waits between attempts are real but very short.
SHORT_WAITS = Retry(attempts=50, first_wait_s=0.001, longest_wait_s=0.01)


@pytest.fixture
def agent() -> Iterator[Agent]:
    with running() as agent:
        yield agent


def tagged(*sizes: int) -> list[tuple[int, bytes]]:
    return [(size, b"x" * size) for size in sizes]


def assert_each_once(outcomes: list[tuple[Any, Any]], sizes: range) -> None:
    assert sorted(key for key, _ in outcomes) == list(sizes)
    assert all(image_size_of(outcome) == key for key, outcome in outcomes)


@each_client_type
def test_every_image_is_answered_once_with_its_own_answer(client_type: Any, agent: Agent) -> None:
    outcomes = client_type(agent.address).detect_many(tagged(*range(1, 300)), concurrency=7)
    assert_each_once(outcomes, range(1, 300))
    assert len(agent.requests) == 299


@each_client_type
def test_results_come_in_the_order_of_the_responses(client_type: Any, agent: Agent) -> None:
    def answer_in_reverse(requests: Iterator[pb.DetectRequest], _context: Any) -> Iterator[Any]:
        while first := next(requests, None):
            held = [first, next(requests), next(requests), next(requests)]
            yield from (streamed(request) for request in reversed(held))

    agent.answer_stream = answer_in_reverse
    outcomes = client_type(agent.address).detect_many(tagged(*range(1, 9)), concurrency=4)
    assert_each_once(outcomes, range(1, 9))
    assert [key for key, _ in outcomes][:4] == [4, 3, 2, 1]


@each_client_type
def test_one_bad_image_fails_alone(client_type: Any, agent: Agent, tmp_path: Path) -> None:
    def refuse_the_second(requests: Iterator[pb.DetectRequest], _context: Any) -> Iterator[Any]:
        for request in requests:
            bad = len(request.image) == 2
            yield refused(request, ErrorCode.TRUNCATED) if bad else streamed(request)

    agent.answer_stream = refuse_the_second
    good, bad = tmp_path / "good.dcm", tmp_path / "bad.dcm"
    good.write_bytes(b"123")
    bad.write_bytes(b"12")
    absent = str(tmp_path / "absent.dcm")
    outcomes = dict(client_type(agent.address).detect_many([good, bad, absent]))
    assert set(outcomes) == {good, bad, absent}
    assert image_size_of(outcomes[good]) == 3
    assert (outcomes[bad].code, outcomes[bad].hint) == (ErrorCode.TRUNCATED, "Do something else.")
    assert outcomes[absent].code == ClientErrorCode.FILE_UNREADABLE
    assert len(agent.requests) == 2


@each_client_type
def test_images_are_read_only_as_responses_arrive(client_type: Any, agent: Agent) -> None:
    """The client never reads more than `concurrency` images beyond those answered."""
    read = answered = 0
    ahead = []

    def images() -> Iterator[tuple[int, bytes]]:
        nonlocal read
        for size in range(1, 41):
            read += 1
            ahead.append(read - answered)
            yield size, b"x" * size

    def count_answers(requests: Iterator[pb.DetectRequest], _context: Any) -> Iterator[Any]:
        nonlocal answered
        for request in requests:
            answered += 1
            yield streamed(request)

    agent.answer_stream = count_answers
    outcomes = client_type(agent.address).detect_many(images(), concurrency=3)
    assert_each_once(outcomes, range(1, 41))
    assert max(ahead) <= 3


@each_client_type
def test_an_overloaded_image_is_sent_again(client_type: Any, agent: Agent) -> None:
    def overload_twice(requests: Iterator[pb.DetectRequest], _context: Any) -> Iterator[Any]:
        attempts: dict[str, int] = {}
        for request in requests:
            attempts[request.request_id] = attempts.get(request.request_id, 0) + 1
            is_overloaded = attempts[request.request_id] < 3
            yield refused(request, ErrorCode.OVERLOADED) if is_overloaded else streamed(request)

    agent.answer_stream = overload_twice
    outcomes = client_type(agent.address, retry=SHORT_WAITS).detect_many(tagged(*range(1, 20)))
    assert_each_once(outcomes, range(1, 20))
    assert len(agent.requests) == 3 * 19


@each_client_type
def test_an_image_that_stays_overloaded_gets_that_error(client_type: Any, agent: Agent) -> None:
    agent.answer_stream = lambda requests, _context: (
        refused(request, ErrorCode.OVERLOADED) for request in requests
    )
    outcomes = client_type(agent.address, retry=SHORT_WAITS).detect_many(tagged(1, 2), timeout_s=1)
    assert [outcome.code for _, outcome in outcomes] == [ErrorCode.OVERLOADED] * 2


@each_client_type
def test_a_broken_stream_is_resumed(client_type: Any, agent: Agent) -> None:
    """Every stream breaks after a few responses; no image is lost and none is answered twice."""

    def break_at_the_fourth(requests: Iterator[pb.DetectRequest], context: Any) -> Iterator[Any]:
        for count, request in enumerate(requests, start=1):
            if count == 4:
                abort(context, grpc.StatusCode.UNAVAILABLE, ErrorCode.NOT_READY)
            yield streamed(request)

    agent.answer_stream = break_at_the_fourth
    outcomes = client_type(agent.address, retry=SHORT_WAITS).detect_many(
        tagged(*range(1, 50)), concurrency=3
    )
    assert_each_once(outcomes, range(1, 50))


@each_client_type
def test_a_stream_that_ends_early_is_resumed(client_type: Any, agent: Agent) -> None:
    agent.answer_stream = lambda requests, _context: iter([streamed(next(requests))])
    outcomes = client_type(agent.address, retry=SHORT_WAITS).detect_many(
        tagged(*range(1, 20)), concurrency=3
    )
    assert_each_once(outcomes, range(1, 20))


@each_client_type
def test_an_agent_that_never_answers_a_stream_is_an_error(client_type: Any, agent: Agent) -> None:
    agent.answer_stream = lambda _requests, _context: iter(())
    with pytest.raises(DetectError) as caught:
        client_type(agent.address, retry=Retry(attempts=3, first_wait_s=0.001)).detect_many(
            tagged(1, 2)
        )
    # grpc.aio may detect only that it can no longer send.
    assert caught.value.code in {ErrorCode.NOT_READY, ClientErrorCode.UNREACHABLE}
    assert caught.value.retryable


@each_client_type
def test_an_image_that_hangs_fails_alone_and_the_others_are_answered(
    client_type: Any, agent: Agent
) -> None:
    """Two images are in flight at a time, and the agent never answers one of them."""

    def skip_the_fifth(requests: Iterator[pb.DetectRequest], _context: Any) -> Iterator[Any]:
        return (streamed(request) for request in requests if len(request.image) != 5)

    agent.answer_stream = skip_the_fifth
    outcomes = dict(
        client_type(agent.address).detect_many(tagged(*range(1, 12)), concurrency=2, timeout_s=2)
    )
    hanging = outcomes.pop(5)
    assert (hanging.code, hanging.retryable) == (ErrorCode.DEADLINE_EXCEEDED, True)
    assert sorted(outcomes) == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert all(image_size_of(outcome) == key for key, outcome in outcomes.items())


@each_client_type
def test_if_the_agent_hangs_every_image_exceeds_its_deadline(
    client_type: Any, agent: Agent
) -> None:
    def hang(_requests: Iterator[pb.DetectRequest], _context: Any) -> Iterator[Any]:
        agent.release.wait()
        return iter(())

    agent.answer_stream = hang
    outcomes = client_type(agent.address).detect_many(tagged(1, 2, 3), concurrency=3, timeout_s=0.3)
    assert sorted(key for key, _ in outcomes) == [1, 2, 3]
    assert {outcome.code for _, outcome in outcomes} == {ErrorCode.DEADLINE_EXCEEDED}


@each_client_type
@pytest.mark.parametrize(
    "spoil",
    [
        lambda message: message.MergeFrom(pb.DetectStreamResponse(request_id="unknown")),
        lambda message: message.response.MergeFrom(pb.DetectResponse(request_id="another")),
        lambda message: message.ClearField("response"),
        lambda message: message.error.MergeFrom(pb.Error()),
        lambda message: message.response.ClearField("image"),
    ],
)
def test_a_response_to_no_sent_image_ends_the_call(
    client_type: Any, agent: Agent, spoil: Any
) -> None:
    def respond(requests: Iterator[pb.DetectRequest], _context: Any) -> Iterator[Any]:
        for request in requests:
            message = streamed(request)
            spoil(message)
            yield message

    agent.answer_stream = respond
    with pytest.raises(DetectError) as caught:
        client_type(agent.address).detect_many(tagged(1, 2, 3))
    assert caught.value.code == ClientErrorCode.WRONG_ANSWER


@each_client_type
def test_the_same_response_twice_ends_the_call(client_type: Any, agent: Agent) -> None:
    def answer_twice(requests: Iterator[pb.DetectRequest], _context: Any) -> Iterator[Any]:
        for request in requests:
            yield from (streamed(request), streamed(request))

    agent.answer_stream = answer_twice
    with pytest.raises(DetectError) as caught:
        client_type(agent.address).detect_many(tagged(*range(1, 9)))
    assert caught.value.code == ClientErrorCode.WRONG_ANSWER


@each_client_type
def test_a_refused_call_is_raised_and_not_repeated_for_every_image(
    client_type: Any, agent: Agent
) -> None:
    calls = []

    def forbid(_requests: Iterator[pb.DetectRequest], context: Any) -> Iterator[Any]:
        calls.append(1)
        abort(context, grpc.StatusCode.PERMISSION_DENIED, ErrorCode.FORBIDDEN)

    agent.answer_stream = forbid
    with pytest.raises(DetectError) as caught:
        client_type(agent.address, retry=SHORT_WAITS).detect_many(tagged(*range(1, 1000)))
    assert caught.value.code == ErrorCode.FORBIDDEN
    # One call; grpc.aio may first detect that it cannot send, and the next call gets the reason.
    assert len(calls) < 50 if client_type is AsyncioClient else calls == [1]


@each_client_type
def test_an_unreachable_agent_is_raised(client_type: Any) -> None:
    with running() as agent:
        address = agent.address
    with pytest.raises(DetectError) as caught:
        client_type(address, clock=PatientClock()).detect_many(tagged(1, 2, 3))
    assert caught.value.code == ClientErrorCode.UNREACHABLE


@each_client_type
def test_the_stream_is_resumed_after_the_agent_has_restarted(client_type: Any) -> None:
    """The process dies with images in flight; the next process on the same port answers them."""
    first, second = Agent(), Agent()
    first.answer_stream = lambda requests, _context: (
        streamed(request) for request in requests if len(request.image) < 5
    )
    first.start()
    patient = Retry(attempts=1000, first_wait_s=0.01, longest_wait_s=0.05)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(
            client_type(first.address, retry=patient).detect_many,
            tagged(*range(1, 12)),
            concurrency=3,
        )
        for _ in range(7):
            assert first.asked.acquire(timeout=30)
        first.stop()
        second.start(first.address)
        try:
            outcomes = call.result(60)
        finally:
            second.stop()
    assert_each_once(outcomes, range(1, 12))
    assert all(len(request.image) >= 5 for request in second.requests)


@each_client_type
def test_an_error_of_the_callers_images_is_raised_and_ends_the_stream(
    client_type: Any, agent: Agent
) -> None:
    def images() -> Iterator[tuple[int, bytes]]:
        yield from tagged(1, 2)
        raise RuntimeError("the caller's own")

    with pytest.raises(RuntimeError, match="the caller's own"):
        client_type(agent.address).detect_many(images(), concurrency=1)


@each_client_type
def test_without_images_there_is_no_call(client_type: Any, agent: Agent) -> None:
    assert client_type(agent.address).detect_many([]) == []
    assert not agent.requests


@each_client_type
def test_invalid_arguments_are_refused_at_once(client_type: Any, agent: Agent) -> None:
    for single in ("folder/image.dcm", Path("image.dcm"), b"bytes"):
        with pytest.raises(TypeError, match="several"):
            client_type(agent.address).detect_many(single)
    with pytest.raises(ValueError, match="concurrency"):
        client_type(agent.address).detect_many([], concurrency=0)
    with pytest.raises(ValueError, match="threshold"):
        client_type(agent.address).detect_many([], threshold=2)


def test_leaving_the_loop_early_ends_the_stream_at_the_agent(agent: Agent) -> None:
    ended = record_end(agent)
    before = threading.active_count()
    with Client(agent.address) as client:
        for _ in client.detect_many(tagged(*range(1, 1000))):
            break
        assert ended.wait(30)
    assert not [t for t in threading.enumerate() if t.name == "hilum-stream"]
    assert before >= 1


async def test_leaving_the_loop_early_ends_the_async_stream_at_the_agent(agent: Agent) -> None:
    ended = record_end(agent)
    async with AsyncClient(agent.address) as client:
        async with aclosing(client.detect_many(tagged(*range(1, 1000)))) as outcomes:
            async for _ in outcomes:
                break
        assert await asyncio.to_thread(ended.wait, 30)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_answers_come_while_an_async_source_waits_for_its_next_image(agent: Agent) -> None:
    """In a watched folder the next image may arrive much later."""
    answered = asyncio.Event()

    async def watched_folder() -> AsyncIterator[tuple[int, bytes]]:
        yield 1, b"x"
        await answered.wait()
        yield 2, b"xx"

    results = []
    async with AsyncClient(agent.address) as client:
        async for key, outcome in client.detect_many(watched_folder()):
            results.append((key, image_size_of(outcome)))
            answered.set()
    assert results == [(1, 1), (2, 2)]


def record_end(agent: Agent) -> threading.Event:
    ended = threading.Event()

    def respond(requests: Iterator[pb.DetectRequest], context: Any) -> Iterator[Any]:
        context.add_callback(ended.set)
        return map(streamed, requests)

    agent.answer_stream = respond
    return ended
