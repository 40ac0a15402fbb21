"""Selection beside a model that serves: one candidate at a time, bounded, nothing cached."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.engine_selection import ONE_AT_A_TIME, BatchPolicy
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.engine_process import EngineProcessFailed, ProcessLimits
from edge_agent.engines.hardware import Hardware
from edge_agent.engines.selection import in_service as module
from edge_agent.engines.selection.benchmark import BenchmarkBudget
from edge_agent.engines.selection.candidates import EngineSelection
from edge_agent.engines.selection.in_service import InService, select_in_service
from edge_agent.engines.selection.probe import Probe, ProbeJob, ProbeProcess, TimingRequest
from edge_agent.engines.selection.select import select_engine
from edge_agent.errors import ConfigInvalid, EngineFailed
from tests.support.engines import hostile
from tests.support.engines.candidates import FakeCandidates
from tests.support.engines.priority import run_at_normal_priority
from tests.support.engines.variants import ORT, bundle_with, variant

ROOT = Path(__file__).parents[5]
INT8, FP32 = "openvino-int8", "openvino-fp32"
BOUNDS = InService(memory_bytes=1 << 30, open_s=300.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("bundle") / "a.bundle"
    return bundle_with(path, variant(INT8), variant(FP32), variant(ORT))


@pytest.fixture(autouse=True)
def _set_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = Hardware("AMD EPYC", 2, ("avx2",), "")
    monkeypatch.setattr(Hardware, "detect", classmethod(lambda cls: hardware))
    set_available_memory(monkeypatch, 8 << 30)


def set_available_memory(monkeypatch: pytest.MonkeyPatch, size_bytes: int | None) -> None:
    monkeypatch.setattr(module, "available_memory_bytes", lambda: size_bytes)


def usual_candidates() -> FakeCandidates:
    peaks = {INT8: 200 << 20, FP32: 300 << 20, ORT: 400 << 20}
    return FakeCandidates({INT8: 9.0, FP32: 6.0, ORT: 14.0}, peaks=peaks)


def select(
    bundle: Bundle, cache_dir: Path, candidates: FakeCandidates, **options: Any
) -> EngineSelection:
    selection = select_in_service(
        bundle, cache_dir, bounds=BOUNDS, start=candidates.start, **options
    )
    assert not +candidates.running, "a probe was left running"
    return selection


def select_at_start(bundle: Bundle, cache_dir: Path, candidates: FakeCandidates) -> EngineSelection:
    return select_engine(
        bundle, cache_dir, budget=BenchmarkBudget(rounds=3), start=candidates.start
    )


def test_candidates_are_tried_one_at_a_time_by_their_processor_time(
    bundle: Bundle, tmp_path: Path
) -> None:
    candidates = usual_candidates()
    selection = select(bundle, tmp_path, candidates)
    assert candidates.most_running == 1
    assert {timing.clock for _, timing in candidates.timed} == {"cpu"}
    assert all(job.with_content_check for job in candidates.started)
    assert selection.variant.name == FP32
    assert selection.reason == (
        "measured in service, in processor time: fastest of 3 that agree with the golden cases: "
        "openvino-fp32 6.0 ms, openvino-int8 9.0 ms, onnxruntime-fp32 14.0 ms"
    )
    assert selection.batch == ONE_AT_A_TIME
    assert selection.peak_bytes == 300 << 20
    assert not selection.is_cached


def test_nothing_that_was_measured_in_service_is_cached(bundle: Bundle, tmp_path: Path) -> None:
    select(bundle, tmp_path, usual_candidates())
    assert list((tmp_path / "selections").iterdir()) == []
    assert not select_at_start(bundle, tmp_path, usual_candidates()).is_cached


def test_a_selection_of_an_earlier_start_is_used_after_its_candidate_was_tried(
    bundle: Bundle, tmp_path: Path
) -> None:
    def cores(job: ProbeJob, timing: TimingRequest) -> float:
        return 10.0 if job.parallel_requests == 2 else 9.0 * timing.images

    at_start = usual_candidates()
    at_start.times[FP32] = cores
    at_start.times[INT8] = 20.0
    first = select_at_start(bundle, tmp_path, at_start)
    assert first.batch == BatchPolicy(parallel_requests=2)
    candidates = usual_candidates()
    selection = select(bundle, tmp_path, candidates)
    assert selection == replace(first, is_cached=True, peak_bytes=300 << 20)
    # It is compiled as the agent will compile it, so that the agent finds it in its cache.
    (job,) = candidates.started
    assert (job.variant, job.parallel_requests) == (FP32, 2)


def test_another_candidate_is_selected_if_that_of_the_earlier_start_fails_today(
    bundle: Bundle, tmp_path: Path
) -> None:
    assert select_at_start(bundle, tmp_path, usual_candidates()).variant.name == FP32
    candidates = usual_candidates()
    candidates.refusals = {FP32: EngineProcessFailed("crashed its process (SIGILL)")}
    selection = select(bundle, tmp_path, candidates)
    assert selection.variant.name == INT8
    assert selection.batch == ONE_AT_A_TIME
    assert selection.reason.endswith("; not chosen: openvino-fp32 crashed its process (SIGILL)")
    assert [job.variant for job in candidates.started] == [FP32, INT8, ORT]


def test_no_candidate_is_started_without_the_memory_that_it_may_take(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_available_memory(monkeypatch, 500 << 20)
    candidates = usual_candidates()
    with pytest.raises(EngineFailed) as failed:
        select(bundle, tmp_path, candidates)
    assert candidates.started == []
    assert failed.value.message.startswith(
        "no engine of this bundle can be used beside the model that serves: openvino-int8 may need "
        "1024 MiB of memory, of which 500 MiB are available; "
    )
    set_available_memory(monkeypatch, None)  # The kernel does not say.
    assert select(bundle, tmp_path, candidates).variant.name == FP32


def test_the_operators_variant_is_the_only_candidate(bundle: Bundle, tmp_path: Path) -> None:
    candidates = usual_candidates()
    selection = select(bundle, tmp_path, candidates, wanted=ORT)
    assert selection.variant.name == ORT
    assert {job.variant for job in candidates.started} == {ORT}
    with pytest.raises(ConfigInvalid):
        select(bundle, tmp_path, candidates, wanted="tpu")
    assert select(bundle, tmp_path, candidates, without={FP32: "failed"}).variant.name == INT8


@pytest.mark.slow
def test_real_candidates_that_hang_crash_eat_memory_or_are_wrong_cost_only_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    names = ["hangs", "illegal", "eats", "blind", "refuses", "exits"]
    variants = [variant(f"openvino-{name}") for name in names]
    bundle = bundle_with(tmp_path / "a.bundle", *variants, variant(FP32))
    bounds = InService(memory_bytes=400 << 20, open_s=300.0)
    limits = ProcessLimits(memory_bytes=bounds.memory_bytes)
    started: list[ProbeProcess] = []

    def start(job: ProbeJob) -> Probe:
        assert all(probe._process.exit_status is not None for probe in started)
        started.append(ProbeProcess(replace(job, opener=hostile.PATH), limits))
        if job.variant == "openvino-hangs":
            monkeypatch.setattr(started[-1], "opened", partial(_opened_at_once, started[-1]))
        return started[-1]

    selection = select_in_service(bundle, tmp_path / "cache", 1, bounds=bounds, start=start)
    assert selection.variant.name == FP32
    assert 0 < selection.peak_bytes < bounds.memory_bytes
    assert re.search(
        r"openvino-hangs did not get ready in time; "
        r"openvino-illegal crashed its process \(SIGILL\); "
        r"openvino-eats needs more than 400 MiB; "
        r"openvino-blind disagrees with the golden cases \(mass: .*\); "
        r"openvino-refuses failed: an unknown instruction set; "
        r"openvino-exits ended its process with status 7$",
        selection.reason,
    )
    with pytest.raises(EngineFailed, match="openvino-eats needs more than 400 MiB"):
        select_in_service(
            bundle, tmp_path / "cache", 1, bounds=bounds, start=start, wanted="openvino-eats"
        )


def _opened_at_once(probe: ProbeProcess, until: float) -> Any:
    """Wait no longer than now, so that the test need not wait for the bound."""
    return ProbeProcess.opened(probe, min(until, time.monotonic()))


@pytest.mark.slow
def test_two_selections_at_once_do_not_disturb_each_other(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run_at_normal_priority(monkeypatch)
    bounds = InService(memory_bytes=1 << 30, open_s=300.0)
    with ThreadPoolExecutor(2) as executor:
        both = [
            executor.submit(select_in_service, bundle, tmp_path, 1, bounds=bounds, wanted=wanted)
            for wanted in (FP32, ORT)
        ]
        assert [each.result().variant.name for each in both] == [FP32, ORT]
