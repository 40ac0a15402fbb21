"""What is decided about images under way on a stream, without a stream."""

from __future__ import annotations

import pytest

from hilum.client import DetectError, ErrorCode, Retry
from hilum.client.batch import Batch, ended_early
from hilum.v1 import detection_pb2 as pb
from tests.support.agents.scripted import refused, streamed

RETRY = Retry(attempts=3, random=lambda: 1.0)


def batch(concurrency: int = 2) -> Batch[str]:
    return Batch(concurrency, timeout_s=10, retry=RETRY)


def request(request_id: str) -> pb.DetectRequest:
    return pb.DetectRequest(request_id=request_id, image=b"x")


def sent(under_way: Batch[str], now: float) -> list[str]:
    return [request.request_id for request in under_way.due(now)]


def test_an_image_is_sent_once_and_leaves_with_its_answer() -> None:
    under_way = batch()
    under_way.take("a", request("1"), now=0)
    assert sent(under_way, 0) == ["1"]
    assert sent(under_way, 1) == []
    outcome = under_way.answer(streamed(request("1")), now=1)
    assert outcome is not None
    assert outcome[0] == "a"
    assert len(under_way) == 0


def test_there_is_room_for_as_many_as_agreed() -> None:
    under_way = batch(2)
    under_way.take("a", request("1"), now=0)
    assert under_way.has_room
    under_way.take("b", request("2"), now=0)
    assert not under_way.has_room
    sent(under_way, 0)
    under_way.answer(refused(request("1"), ErrorCode.TRUNCATED), now=1)
    assert under_way.has_room


def test_an_overloaded_image_keeps_its_place_and_waits() -> None:
    under_way = batch(1)
    under_way.take("a", request("1"), now=0)
    sent(under_way, 0)
    assert under_way.answer(refused(request("1"), ErrorCode.OVERLOADED), now=1) is None
    assert not under_way.has_room
    assert under_way.wait_s(1) == pytest.approx(0.1)
    assert sent(under_way, 1.05) == []
    assert sent(under_way, 1.1) == ["1"]


def test_an_image_that_waits_to_be_sent_again_expires_with_the_reason() -> None:
    under_way = batch(1)
    under_way.take("a", request("1"), now=0)
    sent(under_way, 0)
    under_way.answer(refused(request("1"), ErrorCode.OVERLOADED), now=9.8)
    [(key, error)], drop = under_way.expire(10)
    assert (key, error.code) == ("a", ErrorCode.OVERLOADED)
    # The agent does not have it: nothing late can come.
    assert not drop


def test_an_expired_image_takes_the_stream_with_it_and_the_others_are_sent_again() -> None:
    under_way = batch()
    under_way.take("a", request("1"), now=0)
    under_way.take("b", request("2"), now=5)
    sent(under_way, 5)
    assert under_way.expire(9.9) == ([], False)
    assert under_way.wait_s(9) == pytest.approx(1)
    [(key, error)], drop = under_way.expire(10)
    assert (key, error.code, drop) == ("a", ErrorCode.DEADLINE_EXCEEDED, True)
    assert sent(under_way, 10) == ["2"]


def test_a_lost_stream_is_tried_again_until_it_is_lost_too_often_in_a_row() -> None:
    under_way = batch(1)
    under_way.take("a", request("1"), now=0)
    sent(under_way, 0)
    for _ in range(2):
        under_way.lost(ended_early(), now=1)
        assert sent(under_way, 2) == ["1"]
    with pytest.raises(DetectError) as caught:
        under_way.lost(ended_early(), now=3)
    assert caught.value.code == ErrorCode.NOT_READY


def test_an_answer_makes_up_for_lost_streams() -> None:
    under_way = batch(1)
    for number in range(10):
        name = str(number)
        under_way.take(name, request(name), now=number)
        sent(under_way, number)
        under_way.lost(ended_early(), now=number)
        assert sent(under_way, number + 1) == [name]
        assert under_way.answer(streamed(request(name)), now=number) is not None


def test_a_stream_lost_for_good_is_raised_at_once() -> None:
    under_way = batch(1)
    under_way.take("a", request("1"), now=0)
    forbidden = DetectError(ErrorCode.FORBIDDEN, "No.")
    with pytest.raises(DetectError) as caught:
        under_way.lost(forbidden, now=1)
    assert caught.value is forbidden


def test_a_stream_that_broke_over_a_large_image_costs_the_largest_its_answer() -> None:
    under_way = batch(4)
    for name, size in (("a", 10), ("b", 3000), ("c", 20)):
        under_way.take(name, pb.DetectRequest(request_id=name, image=b"x" * size), now=0)
    assert sent(under_way, 0) == ["a", "b", "c"]
    under_way.take("d", pb.DetectRequest(request_id="d", image=b"x" * 4000), now=0)  # Not sent yet.
    too_large = DetectError(ErrorCode.TOO_LARGE, "No.")
    assert under_way.lost(too_large, now=1) == ([("b", too_large)], 0)
    assert sent(under_way, 1) == ["a", "c", "d"]


def test_an_answer_to_what_was_not_sent_or_is_gone_is_refused() -> None:
    under_way = batch()
    under_way.take("a", request("1"), now=0)
    for message in (streamed(request("1")), streamed(request("9"))):
        with pytest.raises(DetectError, match="wrong_answer"):
            under_way.answer(message, now=0)
    sent(under_way, 0)
    assert under_way.answer(streamed(request("1")), now=0) is not None
    with pytest.raises(DetectError, match="wrong_answer"):
        under_way.answer(streamed(request("1")), now=0)
