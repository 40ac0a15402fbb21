"""Measuring and remembering, with candidates in memory and, at the end, real ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.core.engine_selection import BatchPolicy
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.hardware import Hardware
from edge_agent.engines.runtimes.factory import open_engine
from edge_agent.engines.selection import select as module
from edge_agent.engines.selection.benchmark import BenchmarkBudget
from edge_agent.engines.selection.probe import (
    Probe,
    ProbeFailed,
    ProbeJob,
    ProbeProcess,
    ProbeReady,
    TimingRequest,
)
from edge_agent.engines.selection.select import AUTO, EngineSelection, select_engine
from edge_agent.errors import BundleInvalid, ConfigInvalid, EngineFailed
from tests.support.engines import hostile
from tests.support.engines.variants import (
    ORT,
    bundle_with,
    model_outputs,
    noise,
    variant,
)

ROOT = Path(__file__).parents[5]
INT8, FP32 = "openvino-int8", "openvino-fp32"
BOX = Hardware("AMD EPYC", 2, ("avx2",), "")
QUICK = BenchmarkBudget(rounds=5)

Time = Callable[[ProbeJob, TimingRequest], float]


@dataclass
class Bench:
    """Candidates in memory. `times` gives milliseconds or raises; by variant."""

    times: dict[str, Time | float]
    problems: dict[str, str] = field(default_factory=dict)
    refusals: dict[str, Exception] = field(default_factory=dict)
    max_batch: int = 1
    started: list[ProbeJob] = field(default_factory=list)
    running: Counter[ProbeJob] = field(default_factory=Counter)
    timed: list[tuple[str, TimingRequest]] = field(default_factory=list)

    def start(self, job: ProbeJob) -> Probe:
        self.started.append(job)
        if isinstance(refusal := self.refusals.get(job.variant), OSError):
            raise refusal
        self.running[job] += 1
        return FakeProbe(self, job)


@dataclass
class FakeProbe:
    bench: Bench
    job: ProbeJob

    def opened(self, until: float) -> ProbeReady:
        if refusal := self.bench.refusals.get(self.job.variant):
            raise refusal
        return ProbeReady(self.bench.problems.get(self.job.variant, ""), self.bench.max_batch)

    def time(self, timing: TimingRequest, limit_s: float) -> float:
        assert self.bench.running[self.job], "timed after its end"
        self.bench.timed.append((self.job.variant, timing))
        of = self.bench.times[self.job.variant]
        return of(self.job, timing) if callable(of) else of * timing.images * timing.calls

    def end(self) -> None:
        self.bench.running.pop(self.job, None)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("bundle") / "a.bundle"
    return bundle_with(path, variant(INT8), variant(FP32), variant(ORT))


@pytest.fixture(autouse=True)
def this_box(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The same box for all; call it for another one."""

    def change(**facts: Any) -> None:
        there = replace(BOX, **facts)
        monkeypatch.setattr(Hardware, "detect", classmethod(lambda cls: there))

    change()
    return change


def chosen(bundle: Bundle, cache_dir: Path, bench: Bench, **options: Any) -> EngineSelection:
    choice = select_engine(bundle, cache_dir, budget=QUICK, start=bench.start, **options)
    assert not +bench.running, "a probe was left running"
    return choice


def usual() -> Bench:
    return Bench({INT8: 9.0, FP32: 6.0, ORT: 14.0})


def test_the_fastest_is_chosen_whatever_the_bundles_order(three: Bundle, tmp_path: Path) -> None:
    choice = chosen(three, tmp_path, usual())
    assert choice.variant == three.variant(FP32)
    assert choice.reason == (
        "fastest of 3 that agree with the golden cases: "
        "openvino-fp32 6.0 ms, openvino-int8 9.0 ms, onnxruntime-fp32 14.0 ms"
    )
    assert [(it.variant, it.median_ms) for it in choice.measured] == [
        (INT8, 9.0),
        (FP32, 6.0),
        (ORT, 14.0),
    ]
    assert choice.batch == BatchPolicy()
    assert not choice.remembered


def test_candidates_take_turns_on_changing_pictures(three: Bundle, tmp_path: Path) -> None:
    bench = usual()
    chosen(three, tmp_path, bench)
    turns = bench.timed[: 3 * (QUICK.rounds + 1)]
    for k in range(QUICK.rounds + 1):
        of_round = turns[3 * k : 3 * k + 3]
        assert {name for name, _ in of_round} == {INT8, FP32, ORT}
        assert {timing for _, timing in of_round} == {TimingRequest(k)}


def test_the_median_counts_and_the_first_round_does_not(three: Bundle, tmp_path: Path) -> None:
    bench = usual()
    bench.times[FP32] = lambda job, timing: [900.0, 5.0, 700.0, 6.0, 800.0, 7.0][timing.number]
    bench.times[INT8] = lambda job, timing: 1.0 if timing.number == 0 else 9.0
    choice = chosen(three, tmp_path, bench)
    assert [it.median_ms for it in choice.measured] == [9.0, 7.0, 14.0]


def test_time_over_ends_the_rounds_but_not_before_the_least(three: Bundle, tmp_path: Path) -> None:
    bench = usual()
    select_engine(
        three, tmp_path, budget=BenchmarkBudget(budget_s=0, least_rounds=2), start=bench.start
    )
    assert max(timing.number for _, timing in bench.timed) == 2


def test_one_that_disagrees_is_not_even_timed(three: Bundle, tmp_path: Path) -> None:
    bench = usual()
    bench.problems[FP32] = "mass: nodule_mass with score 0.800 is missing"
    choice = chosen(three, tmp_path, bench)
    assert choice.variant.name == INT8
    assert choice.reason.endswith(
        "; not chosen: openvino-fp32 disagrees with the golden cases "
        "(mass: nodule_mass with score 0.800 is missing)"
    )
    assert FP32 not in {name for name, _ in bench.timed}


def crash(job: ProbeJob, timing: TimingRequest) -> float:
    raise ProbeFailed("crashed its process (SIGSEGV)")


FAILURES: dict[str, dict[str, Any]] = {
    "cannot be started": {"refusals": {FP32: OSError("no memory")}},
    "crashes while it is opened": {"refusals": {FP32: ProbeFailed("crashed (SIGILL)")}},
    "hangs while it is opened": {"refusals": {FP32: ProbeFailed("did not", lasting=False)}},
    "crashes while it is timed": {"times": {INT8: 9.0, FP32: crash, ORT: 14.0}},
}


@pytest.mark.parametrize("case", FAILURES)
def test_one_that_fails_leaves_the_others(three: Bundle, tmp_path: Path, case: str) -> None:
    fields: dict[str, Any] = {"times": usual().times} | FAILURES[case]
    choice = chosen(three, tmp_path, Bench(**fields))
    assert choice.variant.name == INT8
    assert "fastest of 2 that agree" in choice.reason
    assert choice.measured[1].problem


def test_none_that_agrees_is_an_error_that_tells_of_each(three: Bundle, tmp_path: Path) -> None:
    bench = usual()
    bench.problems = {INT8: "mass: wrong", FP32: "mass: wrong too"}
    bench.refusals = {ORT: ProbeFailed("crashed its process (SIGILL)")}
    with pytest.raises(EngineFailed) as failed:
        chosen(three, tmp_path, bench)
    assert failed.value.message == (
        "no engine of this bundle gives the recorded findings on this machine: "
        "openvino-int8 disagrees with the golden cases (mass: wrong); "
        "openvino-fp32 disagrees with the golden cases (mass: wrong too); "
        "onnxruntime-fp32 crashed its process (SIGILL)"
    )
    assert not +bench.running
    assert select_engine(three, tmp_path, budget=QUICK, start=usual().start).variant.name == FP32


def test_it_is_remembered(three: Bundle, tmp_path: Path) -> None:
    first = chosen(three, tmp_path, usual())
    again = Bench({INT8: 1.0, FP32: 6.0, ORT: 14.0})
    assert chosen(three, tmp_path, again) == replace(first, remembered=True)
    assert again.started == []


def test_another_bundle_is_measured_anew(three: Bundle, tmp_path: Path) -> None:
    chosen(three, tmp_path, usual())
    other = bundle_with(tmp_path / "b.bundle", variant(INT8), variant(FP32))
    assert not chosen(other, tmp_path, usual()).remembered
    assert chosen(three, tmp_path, usual()).remembered


def test_another_box_another_runtime_or_other_threads_are_measured_anew(
    three: Bundle,
    tmp_path: Path,
    this_box: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen(three, tmp_path, usual())
    assert not chosen(three, tmp_path, usual(), threads=1).remembered
    this_box(cores=4)
    assert not chosen(three, tmp_path, usual()).remembered
    this_box()
    assert chosen(three, tmp_path, usual()).remembered
    monkeypatch.setattr(module, "runtime_version", lambda runtime: "2027.1")
    assert not chosen(three, tmp_path, usual()).remembered


def test_a_damaged_cache_is_made_again(three: Bundle, tmp_path: Path) -> None:
    chosen(three, tmp_path, usual())
    (file,) = (tmp_path / "selections").iterdir()
    file.write_bytes(file.read_bytes()[:-30])
    assert not chosen(three, tmp_path, usual()).remembered
    assert chosen(three, tmp_path, usual()).remembered


def test_a_failure_that_may_pass_is_not_remembered(three: Bundle, tmp_path: Path) -> None:
    busy = usual()
    busy.refusals = {FP32: ProbeFailed("did not get ready in time", lasting=False)}
    assert chosen(three, tmp_path, busy).variant.name == INT8
    assert chosen(three, tmp_path, usual()).variant.name == FP32
    illegal = usual()
    illegal.refusals = {INT8: ProbeFailed("crashed its process (SIGILL)")}
    other = bundle_with(tmp_path / "b.bundle", variant(INT8), variant(FP32))
    chosen(other, tmp_path, illegal)
    assert chosen(other, tmp_path, usual()).remembered


def test_the_operators_wish_is_tried_alone_and_must_agree(three: Bundle, tmp_path: Path) -> None:
    bench = usual()
    choice = chosen(three, tmp_path, bench, wanted=ORT)
    assert choice.reason == (
        "set by the operator; agrees with the golden cases: onnxruntime-fp32 14.0 ms"
    )
    assert {job.variant for job in bench.started} == {ORT}
    wrong = Bench(usual().times, problems={INT8: "mass: wrong"})
    with pytest.raises(EngineFailed, match="openvino-int8 disagrees"):
        chosen(three, tmp_path, wrong, wanted=INT8)


def test_what_cannot_run_here_is_no_candidate(
    three: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        chosen(three, tmp_path, usual(), wanted="tpu")
    assert refused.value.hint == (
        f"Set engine.variant to {AUTO} or to one of: {INT8}, {FP32}, {ORT}."
    )
    monkeypatch.setattr(
        module, "runtime_version", lambda name: "1" if name == "onnxruntime" else None
    )
    assert [it.variant for it in chosen(three, tmp_path, usual()).measured] == [ORT]
    monkeypatch.setattr(module, "runtime_version", lambda name: None)
    with pytest.raises(BundleInvalid, match="no engine that runs here"):
        chosen(three, tmp_path, usual())


def test_what_is_known_not_to_work_is_done_without_and_measured_apart(
    three: Bundle, tmp_path: Path
) -> None:
    assert chosen(three, tmp_path, usual()).variant.name == FP32
    bench = usual()
    choice = chosen(three, tmp_path, bench, without={FP32: "the card is gone"})
    assert choice.variant.name == INT8
    assert {job.variant for job in bench.started} == {INT8, ORT}
    assert chosen(three, tmp_path, usual()).variant.name == FP32


def test_batches_are_used_where_the_engine_gains_by_them(three: Bundle, tmp_path: Path) -> None:
    def gpu(job: ProbeJob, timing: TimingRequest) -> float:
        return 5.0 + timing.images * timing.calls * 0.5

    bench = Bench({INT8: 9.0, FP32: gpu, ORT: 14.0}, max_batch=8)
    # 1: 5.5 ms; 2: 6 ms; 4: 7 ms; 8: 9 ms, which is more than one and a half times 5.5 ms.
    assert chosen(three, tmp_path, bench).batch == BatchPolicy(max_batch=4)
    assert {timing.images for name, timing in bench.timed if name == FP32} == {1, 2, 4, 8}


def test_requests_go_side_by_side_where_that_brings_more_through(
    three: Bundle, tmp_path: Path, this_box: Callable[..., None]
) -> None:
    def cores(job: ProbeJob, timing: TimingRequest) -> float:
        return 7.0 if job.parallel_requests == 2 else 6.0 * timing.images

    bench = Bench({INT8: 9.0, FP32: cores, ORT: 14.0})
    assert chosen(three, tmp_path, bench).batch == BatchPolicy(parallel_requests=2)
    this_box(cores=1)
    alone = Bench({INT8: 9.0, FP32: cores, ORT: 14.0})
    assert chosen(three, tmp_path, alone).batch == BatchPolicy()
    assert {job.parallel_requests for job in alone.started} == {1}


def test_a_use_that_fails_is_left_out(three: Bundle, tmp_path: Path) -> None:
    def brittle(job: ProbeJob, timing: TimingRequest) -> float:
        return crash(job, timing) if job.parallel_requests > 1 else 6.0

    bench = Bench({INT8: 9.0, FP32: brittle, ORT: 14.0})
    assert chosen(three, tmp_path, bench).batch == BatchPolicy()


def test_real_engines_on_this_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two real runtimes, one that crashes, one that hangs and one that is wrong."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    names = [FP32, ORT, "openvino-illegal", "openvino-hangs", "openvino-blind"]
    bundle = bundle_with(tmp_path / "a.bundle", *map(variant, names))
    hanging = []

    def start(job: ProbeJob) -> Probe:
        probe = ProbeProcess(replace(job, opener=hostile.PATH))
        if job.variant == "openvino-hangs":
            hanging.append(probe)
            return Impatient(probe)
        return probe

    choice = select_engine(bundle, tmp_path / "cache", 2, budget=QUICK, start=start)
    assert choice.variant.name in {FP32, ORT}
    assert re.search(
        r"of 2 that agree .* not chosen: openvino-illegal crashed its process \(SIGILL\); "
        r"openvino-hangs did not get ready in time; openvino-blind disagrees",
        choice.reason,
    )
    assert [probe._process.returncode for probe in hanging] == [-9]
    engine = open_engine(
        bundle, choice.variant, threads=2, cache_dir=tmp_path / "cache", batch=choice.batch
    )
    np.testing.assert_allclose(engine.infer(noise(3)), model_outputs(noise(3)), atol=1e-6)


@dataclass
class Impatient:
    """A probe whose time to get ready is over at once."""

    probe: Probe

    def opened(self, until: float) -> ProbeReady:
        return self.probe.opened(0.0)

    def time(self, timing: TimingRequest, limit_s: float) -> float:
        return self.probe.time(timing, limit_s)

    def end(self) -> None:
        self.probe.end()
