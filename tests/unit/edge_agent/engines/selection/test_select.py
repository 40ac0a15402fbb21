"""Engines are measured and the selection is cached: with fake candidates and with real ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.core.engine_selection import BatchPolicy
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.engine_process import EngineProcessFailed
from edge_agent.engines.hardware import Hardware
from edge_agent.engines.runtimes.factory import open_engine
from edge_agent.engines.selection import candidates as candidates_module
from edge_agent.engines.selection.benchmark import BenchmarkBudget
from edge_agent.engines.selection.candidates import AUTO, EngineSelection
from edge_agent.engines.selection.probe import (
    Probe,
    ProbeJob,
    ProbeProcess,
    ProbeReady,
    TimingRequest,
)
from edge_agent.engines.selection.select import select_engine
from edge_agent.errors import BundleInvalid, ConfigInvalid, EngineFailed
from tests.support.engines import hostile
from tests.support.engines.candidates import FakeCandidates
from tests.support.engines.variants import (
    ORT,
    bundle_with,
    model_outputs,
    noise,
    variant,
)

ROOT = Path(__file__).parents[5]
INT8, FP32 = "openvino-int8", "openvino-fp32"
MACHINE = Hardware("AMD EPYC", 2, ("avx2",), "")
BUDGET = BenchmarkBudget(rounds=5)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("bundle") / "a.bundle"
    return bundle_with(path, variant(INT8), variant(FP32), variant(ORT))


@pytest.fixture(autouse=True)
def set_hardware(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the same hardware for all tests; return a function that changes it."""

    def change(**facts: Any) -> None:
        hardware = replace(MACHINE, **facts)
        monkeypatch.setattr(Hardware, "detect", classmethod(lambda cls: hardware))

    change()
    return change


def select(
    bundle: Bundle, cache_dir: Path, candidates: FakeCandidates, **options: Any
) -> EngineSelection:
    choice = select_engine(bundle, cache_dir, budget=BUDGET, start=candidates.start, **options)
    assert not +candidates.running, "a probe was left running"
    return choice


def usual_candidates() -> FakeCandidates:
    return FakeCandidates({INT8: 9.0, FP32: 6.0, ORT: 14.0})


def test_the_fastest_is_chosen_whatever_the_bundles_order(bundle: Bundle, tmp_path: Path) -> None:
    choice = select(bundle, tmp_path, usual_candidates())
    assert choice.variant == bundle.variant(FP32)
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
    assert not choice.is_cached


def test_candidates_take_turns_on_changing_pictures(bundle: Bundle, tmp_path: Path) -> None:
    candidates = usual_candidates()
    select(bundle, tmp_path, candidates)
    turns = candidates.timed[: 3 * (BUDGET.rounds + 1)]
    for k in range(BUDGET.rounds + 1):
        of_round = turns[3 * k : 3 * k + 3]
        assert {name for name, _ in of_round} == {INT8, FP32, ORT}
        assert {timing for _, timing in of_round} == {TimingRequest(k)}


def test_the_median_counts_and_the_first_round_does_not(bundle: Bundle, tmp_path: Path) -> None:
    candidates = usual_candidates()
    candidates.times[FP32] = lambda job, timing: [900.0, 5.0, 700.0, 6.0, 800.0, 7.0][timing.number]
    candidates.times[INT8] = lambda job, timing: 1.0 if timing.number == 0 else 9.0
    choice = select(bundle, tmp_path, candidates)
    assert [it.median_ms for it in choice.measured] == [9.0, 7.0, 14.0]


def test_the_rounds_end_with_the_budget_but_not_before_the_least(
    bundle: Bundle, tmp_path: Path
) -> None:
    candidates = usual_candidates()
    select_engine(
        bundle, tmp_path, budget=BenchmarkBudget(budget_s=0, least_rounds=2), start=candidates.start
    )
    assert max(timing.number for _, timing in candidates.timed) == 2


def test_a_candidate_that_disagrees_is_not_timed(bundle: Bundle, tmp_path: Path) -> None:
    candidates = usual_candidates()
    candidates.problems[FP32] = "mass: nodule_mass with score 0.800 is missing"
    choice = select(bundle, tmp_path, candidates)
    assert choice.variant.name == INT8
    assert choice.reason.endswith(
        "; not chosen: openvino-fp32 disagrees with the golden cases "
        "(mass: nodule_mass with score 0.800 is missing)"
    )
    assert FP32 not in {name for name, _ in candidates.timed}


def crash(job: ProbeJob, timing: TimingRequest) -> float:
    raise EngineProcessFailed("crashed its process (SIGSEGV)")


FAILURES: dict[str, dict[str, Any]] = {
    "cannot be started": {"refusals": {FP32: OSError("no memory")}},
    "crashes while it is opened": {"refusals": {FP32: EngineProcessFailed("crashed (SIGILL)")}},
    "hangs while it is opened": {"refusals": {FP32: EngineProcessFailed("did not", lasting=False)}},
    "crashes while it is timed": {"times": {INT8: 9.0, FP32: crash, ORT: 14.0}},
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_candidate_that_fails_leaves_the_others(
    bundle: Bundle, tmp_path: Path, case: str
) -> None:
    fields: dict[str, Any] = {"times": usual_candidates().times} | FAILURES[case]
    choice = select(bundle, tmp_path, FakeCandidates(**fields))
    assert choice.variant.name == INT8
    assert "fastest of 2 that agree" in choice.reason
    assert choice.measured[1].problem


def test_if_no_candidate_agrees_the_error_has_the_reason_of_each(
    bundle: Bundle, tmp_path: Path
) -> None:
    candidates = usual_candidates()
    candidates.problems = {INT8: "mass: wrong", FP32: "mass: wrong too"}
    candidates.refusals = {ORT: EngineProcessFailed("crashed its process (SIGILL)")}
    with pytest.raises(EngineFailed) as failed:
        select(bundle, tmp_path, candidates)
    assert failed.value.message == (
        "no engine of this bundle reproduces the recorded findings on this machine: "
        "openvino-int8 disagrees with the golden cases (mass: wrong); "
        "openvino-fp32 disagrees with the golden cases (mass: wrong too); "
        "onnxruntime-fp32 crashed its process (SIGILL)"
    )
    assert not +candidates.running
    assert (
        select_engine(bundle, tmp_path, budget=BUDGET, start=usual_candidates().start).variant.name
        == FP32
    )


def test_the_selection_is_cached(bundle: Bundle, tmp_path: Path) -> None:
    first = select(bundle, tmp_path, usual_candidates())
    again = FakeCandidates({INT8: 1.0, FP32: 6.0, ORT: 14.0})
    assert select(bundle, tmp_path, again) == replace(first, is_cached=True)
    assert again.started == []


def test_another_bundle_is_measured_again(bundle: Bundle, tmp_path: Path) -> None:
    select(bundle, tmp_path, usual_candidates())
    other = bundle_with(tmp_path / "b.bundle", variant(INT8), variant(FP32))
    assert not select(other, tmp_path, usual_candidates()).is_cached
    assert select(bundle, tmp_path, usual_candidates()).is_cached


def test_another_machine_runtime_or_number_of_threads_is_measured_again(
    bundle: Bundle,
    tmp_path: Path,
    set_hardware: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    select(bundle, tmp_path, usual_candidates())
    assert not select(bundle, tmp_path, usual_candidates(), threads=1).is_cached
    set_hardware(cores=4)
    assert not select(bundle, tmp_path, usual_candidates()).is_cached
    set_hardware()
    assert select(bundle, tmp_path, usual_candidates()).is_cached
    monkeypatch.setattr(candidates_module, "runtime_version", lambda runtime: "2027.1")
    assert not select(bundle, tmp_path, usual_candidates()).is_cached


def test_after_damage_of_the_cache_engines_are_measured_again(
    bundle: Bundle, tmp_path: Path
) -> None:
    select(bundle, tmp_path, usual_candidates())
    (file,) = (tmp_path / "selections").iterdir()
    file.write_bytes(file.read_bytes()[:-30])
    assert not select(bundle, tmp_path, usual_candidates()).is_cached
    assert select(bundle, tmp_path, usual_candidates()).is_cached


def test_a_temporary_failure_is_not_cached(bundle: Bundle, tmp_path: Path) -> None:
    busy = usual_candidates()
    busy.refusals = {FP32: EngineProcessFailed("did not get ready in time", lasting=False)}
    assert select(bundle, tmp_path, busy).variant.name == INT8
    assert select(bundle, tmp_path, usual_candidates()).variant.name == FP32
    illegal = usual_candidates()
    illegal.refusals = {INT8: EngineProcessFailed("crashed its process (SIGILL)")}
    other = bundle_with(tmp_path / "b.bundle", variant(INT8), variant(FP32))
    select(other, tmp_path, illegal)
    assert select(other, tmp_path, usual_candidates()).is_cached


def test_the_operators_variant_is_the_only_candidate_and_must_agree(
    bundle: Bundle, tmp_path: Path
) -> None:
    candidates = usual_candidates()
    choice = select(bundle, tmp_path, candidates, wanted=ORT)
    assert choice.reason == (
        "set by the operator; agrees with the golden cases: onnxruntime-fp32 14.0 ms"
    )
    assert {job.variant for job in candidates.started} == {ORT}
    wrong = FakeCandidates(usual_candidates().times, problems={INT8: "mass: wrong"})
    with pytest.raises(EngineFailed, match="openvino-int8 disagrees"):
        select(bundle, tmp_path, wrong, wanted=INT8)


def test_a_variant_that_cannot_run_here_is_no_candidate(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        select(bundle, tmp_path, usual_candidates(), wanted="tpu")
    assert refused.value.hint == (
        f"Set engine.variant to {AUTO} or to one of: {INT8}, {FP32}, {ORT}."
    )
    monkeypatch.setattr(
        candidates_module, "runtime_version", lambda name: "1" if name == "onnxruntime" else None
    )
    assert [it.variant for it in select(bundle, tmp_path, usual_candidates()).measured] == [ORT]
    monkeypatch.setattr(candidates_module, "runtime_version", lambda name: None)
    with pytest.raises(BundleInvalid, match="no engine that runs on this machine"):
        select(bundle, tmp_path, usual_candidates())


def test_an_excluded_variant_is_no_candidate_and_that_selection_is_cached_separately(
    bundle: Bundle, tmp_path: Path
) -> None:
    assert select(bundle, tmp_path, usual_candidates()).variant.name == FP32
    candidates = usual_candidates()
    choice = select(bundle, tmp_path, candidates, without={FP32: "the card is gone"})
    assert choice.variant.name == INT8
    assert {job.variant for job in candidates.started} == {INT8, ORT}
    assert select(bundle, tmp_path, usual_candidates()).variant.name == FP32


def test_batches_are_used_if_they_raise_the_engines_throughput(
    bundle: Bundle, tmp_path: Path
) -> None:
    def gpu(job: ProbeJob, timing: TimingRequest) -> float:
        return 5.0 + timing.images * timing.calls * 0.5

    candidates = FakeCandidates({INT8: 9.0, FP32: gpu, ORT: 14.0}, max_batch=8)
    # 1: 5.5 ms; 2: 6 ms; 4: 7 ms; 8: 9 ms, which is more than one and a half times 5.5 ms.
    assert select(bundle, tmp_path, candidates).batch == BatchPolicy(max_batch=4)
    assert {timing.images for name, timing in candidates.timed if name == FP32} == {1, 2, 4, 8}


def test_requests_run_in_parallel_if_that_raises_the_throughput(
    bundle: Bundle, tmp_path: Path, set_hardware: Callable[..., None]
) -> None:
    def cores(job: ProbeJob, timing: TimingRequest) -> float:
        return 7.0 if job.parallel_requests == 2 else 6.0 * timing.images

    candidates = FakeCandidates({INT8: 9.0, FP32: cores, ORT: 14.0})
    assert select(bundle, tmp_path, candidates).batch == BatchPolicy(parallel_requests=2)
    set_hardware(cores=1)
    alone = FakeCandidates({INT8: 9.0, FP32: cores, ORT: 14.0})
    assert select(bundle, tmp_path, alone).batch == BatchPolicy()
    assert {job.parallel_requests for job in alone.started} == {1}


def test_a_batch_policy_that_fails_is_not_chosen(bundle: Bundle, tmp_path: Path) -> None:
    def fail_in_parallel(job: ProbeJob, timing: TimingRequest) -> float:
        return crash(job, timing) if job.parallel_requests > 1 else 6.0

    candidates = FakeCandidates({INT8: 9.0, FP32: fail_in_parallel, ORT: 14.0})
    assert select(bundle, tmp_path, candidates).batch == BatchPolicy()


def test_real_engines_are_measured_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two real runtimes, one that crashes, one that hangs and one that is wrong."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    names = [FP32, ORT, "openvino-illegal", "openvino-hangs", "openvino-blind"]
    bundle = bundle_with(tmp_path / "a.bundle", *map(variant, names))
    hanging = []

    def start(job: ProbeJob) -> Probe:
        probe = ProbeProcess(replace(job, opener=hostile.PATH))
        if job.variant == "openvino-hangs":
            hanging.append(probe)
            return TimedOutProbe(probe)
        return probe

    choice = select_engine(bundle, tmp_path / "cache", 2, budget=BUDGET, start=start)
    assert choice.variant.name in {FP32, ORT}
    assert re.search(
        r"of 2 that agree .* not chosen: openvino-illegal crashed its process \(SIGILL\); "
        r"openvino-hangs did not get ready in time; openvino-blind disagrees",
        choice.reason,
    )
    assert [probe._process.exit_status for probe in hanging] == [-9]
    engine = open_engine(
        bundle, choice.variant, threads=2, cache_dir=tmp_path / "cache", batch=choice.batch
    )
    np.testing.assert_allclose(engine.infer(noise(3)), model_outputs(noise(3)), atol=1e-6)


@dataclass
class TimedOutProbe:
    """A probe whose deadline to get ready has passed."""

    probe: Probe
    peak_bytes: int = 0

    def opened(self, until: float) -> ProbeReady:
        return self.probe.opened(0.0)

    def time(self, timing: TimingRequest, limit_s: float) -> float:
        return self.probe.time(timing, limit_s)

    def end(self) -> None:
        self.probe.end()
