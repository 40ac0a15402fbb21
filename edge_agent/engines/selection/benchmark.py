"""Opens candidates side by side, times those that reproduce the golden cases, and selects one."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median
from typing import Final, TypeVar

from edge_agent.core.engine_selection import (
    BatchPolicy,
    BenchmarkResult,
    Selection,
    ThroughputTrial,
    choose_batching,
    select_variant,
)
from edge_agent.engines.engine_process import EngineProcessFailed
from edge_agent.engines.selection.probe import (
    Probe,
    ProbeFactory,
    ProbeJob,
    ProbeReady,
    TimingRequest,
)

BATCHES: Final = (2, 4, 8)
"""Batch sizes that are tried where an engine takes several images in one run."""
PARALLEL: Final = 2
"""Images in parallel, each on its share of the threads, compared with one image on all threads."""

Timer = Callable[[int], float]
"""A function that returns one timing in milliseconds, given the round's number."""
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class BenchmarkBudget:
    """Bounds on the time that measuring takes.

    Attributes:
        rounds: the most rounds that are timed.
        least_rounds: rounds that are timed even if `budget_s` has passed.
        budget_s: seconds after which no further round begins.
        open_s: seconds that the engines have to get ready.
        call_s: seconds that an engine has for one call.
    """

    rounds: int = 15
    least_rounds: int = 3
    budget_s: float = 10.0
    open_s: float = 180.0
    call_s: float = 60.0


DEFAULT_BUDGET: Final = BenchmarkBudget()


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """The selected candidate, its batch policy, and the result of every candidate."""

    decision: Selection
    batch: BatchPolicy
    candidates: tuple[BenchmarkResult, ...]


@dataclass(frozen=True, slots=True)
class _Load:
    """A way of giving images to the engine, with this many images in the engine at once."""

    policy: BatchPolicy
    images: int


def benchmark_candidates(
    jobs: Sequence[ProbeJob],
    *,
    is_set_by_operator: bool,
    cores: int,
    budget: BenchmarkBudget,
    start: ProbeFactory,
) -> BenchmarkReport:
    """Time the candidates, select one, then select its batch policy.

    Args:
        jobs: one for each candidate, in the bundle's order.
        is_set_by_operator: True if the operator named the one candidate.
        cores: cores that an engine may compute on.
        budget: the bounds on the time.
        start: starts a probe; every probe is ended when this function returns.

    Returns:
        The selection and the measurements that it is based on.

    Raises:
        NoEngineAgrees: no candidate can be selected.
    """
    with ExitStack() as probes:
        sound, problems = _open_all(jobs, budget, start, probes)
        timers = {
            job: _make_timer(probe, TimingRequest(0), budget) for job, (probe, _) in sound.items()
        }
        medians, failures = _time_in_turns(timers, budget)
        candidates = tuple(_get_result(job, medians, problems | failures) for job in jobs)
        decision = select_variant(candidates, is_set_by_operator=is_set_by_operator)
        (selected,) = (job for job in jobs if job.variant == decision.variant)
        for job, (probe, _) in sound.items():
            if job is not selected:
                probe.end()  # The next measurements may need its memory.
        probe, ready = sound[selected]
        batch = _choose_batch_policy(
            selected, probe, ready, cores=cores, budget=budget, start=start
        )
    return BenchmarkReport(decision, batch, candidates)


def _open_all(
    jobs: Sequence[ProbeJob], budget: BenchmarkBudget, start: ProbeFactory, probes: ExitStack
) -> tuple[dict[ProbeJob, tuple[Probe, ProbeReady]], dict[ProbeJob, EngineProcessFailed]]:
    """Return the probes that agree with the golden cases, and the problems of the others."""
    started: dict[ProbeJob, Probe] = {}
    sound: dict[ProbeJob, tuple[Probe, ProbeReady]] = {}
    problems: dict[ProbeJob, EngineProcessFailed] = {}
    until = time.monotonic() + budget.open_s
    for job in jobs:
        try:
            started[job] = start(job)
            probes.callback(started[job].end)
        except OSError as error:
            problems[job] = EngineProcessFailed(f"could not be tried: {error}", lasting=False)
    for job, probe in started.items():
        try:
            ready = probe.opened(until)
            ready.require_agreement()
            sound[job] = (probe, ready)
        except EngineProcessFailed as problem:
            problems[job] = problem
            probe.end()
    return sound, problems


def _get_result(
    job: ProbeJob,
    medians: Mapping[ProbeJob, float],
    problems: Mapping[ProbeJob, EngineProcessFailed],
) -> BenchmarkResult:
    if (problem := problems.get(job)) is not None:
        return BenchmarkResult(job.variant, None, str(problem), problem.lasting)
    return BenchmarkResult(job.variant, medians[job])


def _choose_batch_policy(
    job: ProbeJob,
    probe: Probe,
    ready: ProbeReady,
    *,
    cores: int,
    budget: BenchmarkBudget,
    start: ProbeFactory,
) -> BatchPolicy:
    """Time one image at a time, batches, and calls side by side, and choose between them."""
    with ExitStack() as probes:
        timers = dict(_make_batch_timers(probe, ready.max_batch, budget))
        if cores >= PARALLEL:
            timers |= _make_parallel_timers(job, budget, start, probes)
        medians, _ = _time_in_turns(timers, budget)
    policies = dict.fromkeys(load.policy for load in medians)
    trials = (_make_trial(policy, medians) for policy in policies)
    return choose_batching([trial for trial in trials if trial is not None])


def _make_batch_timers(
    probe: Probe, max_batch: int, budget: BenchmarkBudget
) -> Iterator[tuple[_Load, Timer]]:
    for images in (1, *BATCHES):
        if images <= max_batch:
            load = _Load(BatchPolicy(max_batch=images), images)
            yield load, _make_timer(probe, TimingRequest(0, images), budget)


def _make_parallel_timers(
    job: ProbeJob, budget: BenchmarkBudget, start: ProbeFactory, probes: ExitStack
) -> dict[_Load, Timer]:
    """Open another engine, whose threads are shared among `PARALLEL` calls, and time that one."""
    policy = BatchPolicy(parallel_requests=PARALLEL)
    ready, _ = _open_all([replace(job, parallel_requests=PARALLEL)], budget, start, probes)
    timers: dict[_Load, Timer] = {}
    for probe, _ in ready.values():
        timers[_Load(policy, PARALLEL)] = _make_timer(
            probe, TimingRequest(0, calls=PARALLEL), budget
        )
        timers[_Load(policy, 1)] = _make_timer(probe, TimingRequest(0), budget)
    return timers


def _make_trial(policy: BatchPolicy, medians: Mapping[_Load, float]) -> ThroughputTrial | None:
    """Return a policy's throughput and delay; None if it was not timed with all its images.

    An image waits for its whole batch. Calls side by side delay an image as long as one call takes
    that has no other beside it.
    """
    images = policy.max_batch * policy.parallel_requests
    full_ms = medians.get(_Load(policy, images))
    if full_ms is None:
        return None
    delay_ms = medians.get(_Load(policy, 1), full_ms)
    return ThroughputTrial(policy, images * 1e3 / full_ms, delay_ms)


def _make_timer(probe: Probe, timing: TimingRequest, budget: BenchmarkBudget) -> Timer:
    return lambda number: probe.time(replace(timing, number=number), budget.call_s)


def _time_in_turns(
    timers: Mapping[Key, Timer], budget: BenchmarkBudget
) -> tuple[dict[Key, float], dict[Key, EngineProcessFailed]]:
    """Return the median of each timer in milliseconds, and the failures of the others.

    The timers take turns, so that other work of the machine affects all of them alike. The first
    round is a warm-up and does not count. A timer that has failed is not called again.
    """
    times: dict[Key, list[float]] = {key: [] for key in timers}
    failures: dict[Key, EngineProcessFailed] = {}
    until = time.monotonic() + budget.budget_s
    for number in range(budget.rounds + 1):
        if number > budget.least_rounds and time.monotonic() >= until:
            break
        for key in timers.keys() - failures.keys():
            try:
                elapsed_ms = timers[key](number)
            except EngineProcessFailed as failure:
                failures[key] = failure
                continue
            if number > 0:
                times[key].append(elapsed_ms)
    return {key: median(of) for key, of in times.items() if key not in failures}, failures
