"""An engine's process: its priority, what it uses, and answers that are none."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.engines import engine_process
from edge_agent.engines.engine_process import EngineProcess, EngineProcessFailed, ProcessLimits
from edge_agent.system import processes
from edge_agent.system.processes import cpu_time_s, run_at_idle_priority

ROOT = Path(__file__).parents[4]
WAIT_S = 120.0

Start = Callable[..., EngineProcess]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return a function that starts processes; end them after the test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    started = []

    def start_service(name: str, *, is_idle: bool = False) -> EngineProcess:
        serve = f"tests.support.engines.light_service:{name}"
        started.append(EngineProcess(serve, ProcessLimits(is_idle=is_idle)))
        return started[-1]

    yield start_service
    for process in started:
        process.end()
        assert process.exit_status is not None


@pytest.mark.parametrize(
    ("is_idle", "policy", "more_niceness"), [(True, os.SCHED_IDLE, 0), (False, os.SCHED_OTHER, 5)]
)
def test_every_thread_inherits_the_priority_that_is_set_before_a_library_is_imported(
    start: Start, is_idle: bool, policy: int, more_niceness: int
) -> None:
    report = start("report", is_idle=is_idle).receive(WAIT_S, "report")
    assert len(report["policies"]) > 1
    assert set(report["policies"]) == {policy}
    assert report["niceness"] == min(19, os.nice(0) + more_niceness)
    # Each of these starts threads.
    assert not {"numpy", "openvino", "onnxruntime", "cv2"} & set(report["modules"])


def test_without_permission_for_idle_priority_a_process_is_niced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    added: list[int] = []

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(processes.os, "sched_setscheduler", refuse)
    monkeypatch.setattr(processes.os, "nice", added.append)
    run_at_idle_priority()
    assert added == [19]


def test_an_answer_that_is_not_understood_ends_the_process(start: Start) -> None:
    process = start("answer_nonsense")
    for _ in range(2):  # It stays ended.
        with pytest.raises(EngineProcessFailed, match="gave an answer that is not understood"):
            process.receive(WAIT_S, "answer")
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert process.exit_status == -signal.SIGKILL


def test_a_process_that_does_not_read_is_killed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_process, "_TRANSFER_LIMIT_S", 1.0)
    process = start("answer_nonsense")
    os.kill(process.pid, signal.SIGSTOP)
    process.send({}, bytes(8 << 20))
    with pytest.raises(EngineProcessFailed, match="did not read a request in time"):
        process.receive(WAIT_S, "answer")


def test_the_processor_time_and_the_memory_are_read_with_each_answer(start: Start) -> None:
    process = start("compute")
    assert (process.cpu_s, process.peak_bytes) == (0.0, 0)
    process.receive(WAIT_S, "answer")
    assert process.cpu_s > 0
    assert process.peak_bytes > 1 << 20


def test_the_processor_time_of_a_process_that_has_ended_is_not_known() -> None:
    assert (cpu_time_s(os.getpid()) or 0) > 0
    assert cpu_time_s(2**22 + 1) is None
