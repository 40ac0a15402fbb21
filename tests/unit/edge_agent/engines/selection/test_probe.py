"""A candidate in its own process: what breaks there is told here, and is gone afterwards."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.engines.bundle import Bundle
from edge_agent.engines.selection.probe import ProbeFailed, ProbeJob, ProbeProcess, TimingRequest
from tests.support.engines import hostile
from tests.support.engines.variants import ORT, bundle_with, variant

ROOT = Path(__file__).parents[5]
COMMANDS = (
    "illegal", "killed", "exits", "hangs", "refuses", "breaks", "blind", "hangs-later",
    "crashes-later", "reports",
)  # fmt: skip
WAIT_S = 120.0


@pytest.fixture(scope="module")
def sound_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    hostile = [variant(f"openvino-{command}") for command in COMMANDS]
    path = tmp_path_factory.mktemp("bundle") / "a.bundle"
    return bundle_with(path, variant("openvino-fp32"), variant(ORT), *hostile)


Try = Callable[[str], ProbeProcess]


@pytest.fixture
def tried(sound_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Try]:
    """Starts probes and ends them."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    started = []

    def start(name: str, **changes: object) -> ProbeProcess:
        job = ProbeJob(
            bundle=str(sound_bundle.path),
            digest=sound_bundle.digest,
            variant=name,
            threads=1,
            cache_dir=str(tmp_path / "cache"),
            opener=hostile.PATH,
        )
        started.append(ProbeProcess(replace(job, **changes)))
        return started[-1]

    yield start
    for probe in started:
        probe.end()
        assert probe._process.returncode is not None


def soon() -> float:
    return time.monotonic() + WAIT_S


@pytest.mark.parametrize("name", ["openvino-fp32", ORT])
def test_a_sound_engine_agrees_and_can_be_timed(tried: Try, name: str) -> None:
    probe = tried(name)
    opened = probe.opened(soon())
    assert (opened.problems, opened.max_batch) == ("", 1)
    for timing in (TimingRequest(0), TimingRequest(1, images=3), TimingRequest(2, calls=2)):
        assert probe.time(timing, WAIT_S) > 0


def test_it_is_nicer_than_the_agent(tried: Try, sound_bundle: Bundle) -> None:
    tried("openvino-reports").opened(soon())
    told = int(sound_bundle.path.with_suffix(".nice").read_text(encoding="ascii"))
    assert told == min(19, os.nice(0) + 5)


def test_one_that_answers_wrongly_says_in_which_case(tried: Try) -> None:
    opened = tried("openvino-blind").opened(soon())
    assert opened.problems.startswith("mass: nodule_mass with score 0.800 is missing")


@pytest.mark.parametrize(
    ("command", "told", "lasting"),
    [
        ("illegal", r"^crashed its process \(SIGILL\)$", True),
        ("killed", r"^crashed its process \(SIGKILL\)$", False),
        ("exits", "^ended its process with status 7$", True),
        ("refuses", "^failed: an unknown instruction set$", True),
        ("breaks", "^failed: LookupError: a library's own words$", True),
    ],
)
def test_what_goes_wrong_is_told_in_words(
    tried: Try, command: str, told: str, lasting: bool
) -> None:
    with pytest.raises(ProbeFailed, match=told) as failed:
        tried(f"openvino-{command}").opened(soon())
    assert failed.value.lasting is lasting


def test_one_that_hangs_is_killed_when_its_time_is_over(tried: Try) -> None:
    probe = tried("openvino-hangs")
    with pytest.raises(ProbeFailed, match="did not get ready in time") as failed:
        probe.opened(time.monotonic())
    assert not failed.value.lasting
    probe._process.wait(WAIT_S)
    with pytest.raises(ProbeFailed):
        probe.time(TimingRequest(0), WAIT_S)


@pytest.mark.parametrize(
    ("command", "told", "limit_s"),
    [
        ("hangs-later", "did not answer in time", 0.2),
        ("crashes-later", r"crashed its process \(SIGABRT\)", WAIT_S),
    ],
)
def test_what_goes_wrong_while_it_is_timed(
    tried: Try, command: str, told: str, limit_s: float
) -> None:
    probe = tried(f"openvino-{command}")
    assert probe.opened(soon()).problems == ""
    with pytest.raises(ProbeFailed, match=told):
        probe.time(TimingRequest(0), limit_s)


def test_a_bundle_that_was_replaced_meanwhile_is_not_tried(tried: Try) -> None:
    with pytest.raises(ProbeFailed, match="the bundle's file was replaced"):
        tried(ORT, digest="0" * 64).opened(soon())


AGENT = """
import os, signal, sys
from edge_agent.engines.selection.probe import ProbeJob, ProbeProcess
probe = ProbeProcess(ProbeJob(*sys.argv[1:4], 1, sys.argv[4], opener=sys.argv[5]))
print(probe._process.pid, flush=True)
signal.pause()
"""


def test_nothing_is_left_when_the_agent_is_killed(sound_bundle: Bundle, tmp_path: Path) -> None:
    """A probe ends with whoever started it, even while it hangs."""
    told = [str(sound_bundle.path), sound_bundle.digest, "openvino-hangs", str(tmp_path)]
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, *told, hostile.PATH],
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
