"""Probes: an engine's failure in its own process is reported, and the process ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.engines.bundle import Bundle
from edge_agent.engines.engine_process import EngineProcessFailed, ProcessLimits
from edge_agent.engines.selection.probe import ProbeJob, ProbeProcess, TimingRequest
from tests.support.engines import hostile
from tests.support.engines.variants import ORT, bundle_with, variant

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[5]
COMMANDS = (
    "illegal", "killed", "exits", "hangs", "refuses", "breaks", "blind", "hangs-later",
    "crashes-later", "reports", "eats",
)  # fmt: skip
WAIT_S = 120.0
NO_LIMITS = ProcessLimits()


@pytest.fixture(scope="module")
def sound_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    misbehaving = [variant(f"openvino-{command}") for command in COMMANDS]
    path = tmp_path_factory.mktemp("bundle") / "a.bundle"
    return bundle_with(path, variant("openvino-fp32"), variant(ORT), *misbehaving)


StartProbe = Callable[..., ProbeProcess]


@pytest.fixture
def start_probe(
    sound_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StartProbe]:
    """Return a function that starts probes; end them after the test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    started = []

    def start(name: str, limits: ProcessLimits = NO_LIMITS, **changes: object) -> ProbeProcess:
        job = ProbeJob(
            bundle=str(sound_bundle.path),
            digest=sound_bundle.digest,
            variant=name,
            threads=1,
            cache_dir=str(tmp_path / "cache"),
            opener=hostile.PATH,
        )
        started.append(ProbeProcess(replace(job, **changes), limits))
        return started[-1]

    yield start
    for probe in started:
        probe.end()
        assert probe._process.exit_status is not None


def deadline() -> float:
    return time.monotonic() + WAIT_S


@pytest.mark.parametrize("name", ["openvino-fp32", ORT])
def test_a_sound_engine_agrees_and_can_be_timed(start_probe: StartProbe, name: str) -> None:
    probe = start_probe(name)
    opened = probe.opened(deadline())
    assert (opened.problems, opened.max_batch) == ("", 1)
    for timing in (TimingRequest(0), TimingRequest(1, images=3), TimingRequest(2, calls=2)):
        assert probe.time(timing, WAIT_S) > 0


def test_a_probe_has_a_lower_priority_than_the_agent(
    start_probe: StartProbe, sound_bundle: Bundle
) -> None:
    start_probe("openvino-reports").opened(deadline())
    report = hostile.read_report(sound_bundle)
    assert report["niceness"] == min(19, os.nice(0) + 5)
    assert report["oom_score_adj"] == 1000


def test_a_probe_that_needs_more_memory_than_it_may_is_killed(start_probe: StartProbe) -> None:
    probe = start_probe("openvino-eats", ProcessLimits(memory_bytes=300 << 20))
    with pytest.raises(EngineProcessFailed, match=r"^needs more than 300 MiB$") as failed:
        probe.opened(deadline())
    assert not failed.value.lasting
    os.waitid(os.P_PID, probe.pid, os.WEXITED | os.WNOWAIT)
    assert probe._process.exit_status == -signal.SIGKILL


def test_the_peak_of_the_memory_is_measured(start_probe: StartProbe) -> None:
    limits = ProcessLimits(memory_bytes=2 << 30)
    probe = start_probe("openvino-fp32", limits)
    assert probe.opened(deadline()).problems == ""
    assert 20 << 20 < probe.peak_bytes < 2 << 30


def test_the_processor_time_of_a_request_can_be_measured(start_probe: StartProbe) -> None:
    probe = start_probe("openvino-fp32")
    probe.opened(deadline())
    assert probe.time(TimingRequest(0, clock="cpu"), WAIT_S) > 0


def test_wrong_findings_are_reported_with_their_case(start_probe: StartProbe) -> None:
    opened = start_probe("openvino-blind").opened(deadline())
    assert opened.problems.startswith("mass: nodule_mass with score 0.800 is missing")


@pytest.mark.parametrize(
    ("command", "message", "lasting"),
    [
        ("illegal", r"^crashed its process \(SIGILL\)$", True),
        ("killed", r"^crashed its process \(SIGKILL\)$", False),
        ("exits", "^ended its process with status 7$", True),
        ("refuses", "^failed: an unknown instruction set$", True),
        ("breaks", "^failed: LookupError: a library's own words$", True),
    ],
)
def test_a_failure_is_reported_in_words(
    start_probe: StartProbe, command: str, message: str, lasting: bool
) -> None:
    with pytest.raises(EngineProcessFailed, match=message) as failed:
        start_probe(f"openvino-{command}").opened(deadline())
    assert failed.value.lasting is lasting


def test_a_probe_that_hangs_is_killed_at_its_deadline(start_probe: StartProbe) -> None:
    probe = start_probe("openvino-hangs")
    with pytest.raises(EngineProcessFailed, match="did not get ready in time") as failed:
        probe.opened(time.monotonic())
    assert not failed.value.lasting
    os.waitid(os.P_PID, probe.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(EngineProcessFailed):
        probe.time(TimingRequest(0), WAIT_S)


@pytest.mark.parametrize(
    ("command", "message", "limit_s"),
    [
        ("hangs-later", "did not answer in time", 0.2),
        ("crashes-later", r"crashed its process \(SIGABRT\)", WAIT_S),
    ],
)
def test_a_failure_during_timing_is_reported(
    start_probe: StartProbe, command: str, message: str, limit_s: float
) -> None:
    probe = start_probe(f"openvino-{command}")
    assert probe.opened(deadline()).problems == ""
    with pytest.raises(EngineProcessFailed, match=message):
        probe.time(TimingRequest(0), limit_s)


def test_a_bundle_that_was_replaced_meanwhile_is_not_opened(start_probe: StartProbe) -> None:
    with pytest.raises(EngineProcessFailed, match="the bundle's file was replaced"):
        start_probe(ORT, digest="0" * 64).opened(deadline())


AGENT = """
import os, signal, sys
from edge_agent.engines.selection.probe import ProbeJob, ProbeProcess
probe = ProbeProcess(ProbeJob(*sys.argv[1:4], 1, sys.argv[4], opener=sys.argv[5]))
print(probe.pid, flush=True)
signal.pause()
"""


def test_no_probe_is_left_when_the_agent_is_killed(sound_bundle: Bundle, tmp_path: Path) -> None:
    """A probe ends with the process that started it, even while it hangs."""
    job = [str(sound_bundle.path), sound_bundle.digest, "openvino-hangs", str(tmp_path)]
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, *job, hostile.PATH],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    with agent:
        assert agent.stdout is not None
        probe = os.pidfd_open(int(agent.stdout.readline()))
        agent.kill()
    ended, _, _ = select.select([probe], [], [], WAIT_S)
    os.close(probe)
    assert ended
