"""Blocking work is abandoned when it takes too long, and its late result is discarded."""

from __future__ import annotations

import threading

import pytest

from edge_agent.system.abandon import Abandoned, run_or_abandon

WAIT_S = 60.0


def test_work_that_ends_in_time_gives_its_result_or_its_error() -> None:
    discarded: list[int] = []
    assert run_or_abandon(lambda: 7, WAIT_S, discarded.append) == 7
    with pytest.raises(ZeroDivisionError):
        run_or_abandon(lambda: 1 // 0, WAIT_S, discarded.append)
    assert run_or_abandon(lambda: None, WAIT_S, lambda _: None) is None
    assert discarded == []


def test_the_result_of_abandoned_work_is_discarded_when_it_comes() -> None:
    may_end, discarded = threading.Event(), threading.Event()
    results = []

    def work() -> str:
        assert threading.current_thread().daemon
        assert may_end.wait(WAIT_S)
        return "late"

    def discard(result: str) -> None:
        results.append(result)
        discarded.set()

    with pytest.raises(Abandoned):
        run_or_abandon(work, 0.01, discard)
    assert not results
    may_end.set()
    assert discarded.wait(WAIT_S)
    assert results == ["late"]


def test_the_error_of_abandoned_work_is_dropped() -> None:
    may_end = threading.Event()
    threads = []

    def work() -> None:
        threads.append(threading.current_thread())
        assert may_end.wait(WAIT_S)
        raise ValueError

    with pytest.raises(Abandoned):
        run_or_abandon(work, 0.01, lambda _: pytest.fail("there is no result"))
    may_end.set()
    threads[0].join(WAIT_S)
    assert not threads[0].is_alive()
