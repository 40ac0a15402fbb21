"""The client retries what can succeed later, and for how long."""

from __future__ import annotations

import pickle
from itertools import count

import pytest

from hilum.client import ClientErrorCode, DetectError, ErrorCode, Retry
from hilum.client.errors import RETRYABLE, from_message
from hilum.v1 import detection_pb2 as pb

UPPER = Retry(random=lambda: 1.0)
LOWER = Retry(random=lambda: 0.0)


def error(code: str, retry_after_s: float | None = None) -> DetectError:
    return DetectError(code, "What is wrong.", retry_after_s=retry_after_s)


@pytest.mark.parametrize(
    "code",
    sorted(
        {*ErrorCode, *ClientErrorCode}
        - {ErrorCode.OVERLOADED, ErrorCode.NOT_READY, ClientErrorCode.UNREACHABLE}
    ),
)
def test_only_temporary_errors_are_tried_again(code: str) -> None:
    assert UPPER.compute_wait_s(error(code, retry_after_s=0.1), 1, 1000) is None


@pytest.mark.parametrize("code", [ClientErrorCode.UNREACHABLE, ErrorCode.NOT_READY])
def test_an_agent_that_cannot_be_reached_is_tried_a_few_times(code: str) -> None:
    waits = [
        Retry(attempts=3).compute_wait_s(error(code), attempt, 1000) for attempt in range(1, 5)
    ]
    assert [wait is None for wait in waits] == [False, False, True, True]
    assert Retry(attempts=1).compute_wait_s(error(code), 1, 1000) is None


def test_an_overloaded_agent_is_tried_until_the_deadline() -> None:
    overloaded = error(ErrorCode.OVERLOADED)
    remaining = 30.0
    for attempt in count(1):
        wait = UPPER.compute_wait_s(overloaded, attempt, remaining)
        if wait is None:
            break
        assert 0 < wait <= UPPER.longest_wait_s
        remaining -= wait
    assert 0 < remaining <= UPPER.longest_wait_s
    assert attempt > 10
    assert UPPER.compute_wait_s(overloaded, 10**6, 1000) == UPPER.longest_wait_s


def test_waits_double_up_to_the_longest_and_half_of_each_is_random() -> None:
    overloaded = error(ErrorCode.OVERLOADED)
    highest = [UPPER.compute_wait_s(overloaded, attempt, 1000) for attempt in range(1, 8)]
    assert highest == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])
    lowest = [LOWER.compute_wait_s(overloaded, attempt, 1000) for attempt in range(1, 8)]
    assert lowest == pytest.approx([wait / 2 for wait in highest if wait is not None])


def test_the_wait_that_the_agent_asks_for_is_a_lower_bound() -> None:
    overloaded = error(ErrorCode.OVERLOADED, retry_after_s=5)
    assert LOWER.compute_wait_s(overloaded, 1, 1000) == pytest.approx(5.05)
    assert LOWER.compute_wait_s(overloaded, 1, 5.05) is None


def test_retryable_errors_are_those_of_the_list() -> None:
    assert {
        code for code in ErrorCode if from_message(pb.Error(code=code, message="x")).retryable
    } == RETRYABLE - {ClientErrorCode.UNREACHABLE}


def test_an_error_survives_a_process_border_and_reads_well() -> None:
    sent = DetectError(ErrorCode.OVERLOADED, "Too much.", "Wait.", True, 2.5)
    restored = pickle.loads(pickle.dumps(sent))  # noqa: S301  # bytes of this test
    assert vars(restored) == vars(sent)
    assert str(restored) == "Too much. Wait. [overloaded]"
    assert str(DetectError("code", "Wrong.")) == "Wrong. [code]"
