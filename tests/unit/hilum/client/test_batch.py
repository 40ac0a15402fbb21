"""The decisions on images in progress on a stream, without a stream."""

from __future__ import annotations

import pytest

from hilum.client import DetectError, ErrorCode, Retry
from hilum.client.batch import Batch, stream_ended_error
from hilum.v1 import detection_pb2 as pb
from tests.support.agents.scripted import refused, streamed

RETRY = Retry(attempts=3, random=lambda: 1.0)


def make_batch(concurrency: int = 2) -> Batch[str]:
    return Batch(concurrency, timeout_s=10, retry=RETRY)


def request(request_id: str) -> pb.DetectRequest:
    return pb.DetectRequest(request_id=request_id, image=b"x")


def send_due(batch: Batch[str], now: float) -> list[str]:
    return [request.request_id for request in batch.pop_due(now)]


def test_an_image_is_sent_once_and_removed_with_its_answer() -> None:
    batch = make_batch()
    batch.add("a", request("1"), now=0)
    assert send_due(batch, 0) == ["1"]
    assert send_due(batch, 1) == []
    outcome = batch.handle_answer(streamed(request("1")), now=1)
    assert outcome is not None
    assert outcome[0] == "a"
    assert len(batch) == 0


def test_there_is_room_for_as_many_images_as_concurrency() -> None:
    batch = make_batch(2)
    batch.add("a", request("1"), now=0)
    assert batch.has_room
    batch.add("b", request("2"), now=0)
    assert not batch.has_room
    send_due(batch, 0)
    batch.handle_answer(refused(request("1"), ErrorCode.TRUNCATED), now=1)
    assert batch.has_room


def test_an_overloaded_image_keeps_its_place_and_waits() -> None:
    batch = make_batch(1)
    batch.add("a", request("1"), now=0)
    send_due(batch, 0)
    assert batch.handle_answer(refused(request("1"), ErrorCode.OVERLOADED), now=1) is None
    assert not batch.has_room
    assert batch.compute_wait_s(1) == pytest.approx(0.1)
    assert send_due(batch, 1.05) == []
    assert send_due(batch, 1.1) == ["1"]


def test_an_image_that_waits_to_be_sent_again_expires_with_the_reason() -> None:
    batch = make_batch(1)
    batch.add("a", request("1"), now=0)
    send_due(batch, 0)
    batch.handle_answer(refused(request("1"), ErrorCode.OVERLOADED), now=9.8)
    [(key, error)], drop = batch.expire(10)
    assert (key, error.code) == ("a", ErrorCode.OVERLOADED)
    # The agent does not have the image, so no late answer can arrive.
    assert not drop


def test_an_expired_image_closes_the_stream_and_the_others_are_sent_again() -> None:
    batch = make_batch()
    batch.add("a", request("1"), now=0)
    batch.add("b", request("2"), now=5)
    send_due(batch, 5)
    assert batch.expire(9.9) == ([], False)
    assert batch.compute_wait_s(9) == pytest.approx(1)
    [(key, error)], drop = batch.expire(10)
    assert (key, error.code, drop) == ("a", ErrorCode.DEADLINE_EXCEEDED, True)
    assert send_due(batch, 10) == ["2"]


def test_a_broken_stream_is_opened_again_until_too_many_break_in_a_row() -> None:
    batch = make_batch(1)
    batch.add("a", request("1"), now=0)
    send_due(batch, 0)
    for _ in range(2):
        batch.handle_loss(stream_ended_error(), now=1)
        assert send_due(batch, 2) == ["1"]
    with pytest.raises(DetectError) as caught:
        batch.handle_loss(stream_ended_error(), now=3)
    assert caught.value.code == ErrorCode.NOT_READY


def test_an_answer_resets_the_count_of_broken_streams() -> None:
    batch = make_batch(1)
    for number in range(10):
        name = str(number)
        batch.add(name, request(name), now=number)
        send_due(batch, number)
        batch.handle_loss(stream_ended_error(), now=number)
        assert send_due(batch, number + 1) == [name]
        assert batch.handle_answer(streamed(request(name)), now=number) is not None


def test_an_error_that_cannot_pass_is_raised_at_once() -> None:
    batch = make_batch(1)
    batch.add("a", request("1"), now=0)
    forbidden = DetectError(ErrorCode.FORBIDDEN, "No.")
    with pytest.raises(DetectError) as caught:
        batch.handle_loss(forbidden, now=1)
    assert caught.value is forbidden


def test_a_stream_that_broke_because_of_a_large_image_fails_the_largest() -> None:
    batch = make_batch(4)
    for name, size in (("a", 10), ("b", 3000), ("c", 20)):
        batch.add(name, pb.DetectRequest(request_id=name, image=b"x" * size), now=0)
    assert send_due(batch, 0) == ["a", "b", "c"]
    batch.add("d", pb.DetectRequest(request_id="d", image=b"x" * 4000), now=0)  # Not sent yet.
    too_large = DetectError(ErrorCode.TOO_LARGE, "No.")
    assert batch.handle_loss(too_large, now=1) == ([("b", too_large)], 0)
    assert send_due(batch, 1) == ["a", "c", "d"]


def test_an_answer_to_a_request_that_is_not_in_progress_is_refused() -> None:
    batch = make_batch()
    batch.add("a", request("1"), now=0)
    for message in (streamed(request("1")), streamed(request("9"))):
        with pytest.raises(DetectError, match="wrong_answer"):
            batch.handle_answer(message, now=0)
    send_due(batch, 0)
    assert batch.handle_answer(streamed(request("1")), now=0) is not None
    with pytest.raises(DetectError, match="wrong_answer"):
        batch.handle_answer(streamed(request("1")), now=0)
