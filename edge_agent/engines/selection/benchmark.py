"""Try candidates side by side and time those that say what the golden cases say."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
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
from edge_agent.engines.selection.probe import (
    Probe,
    ProbeFactory,
    ProbeFailed,
    ProbeJob,
    ProbeReady,
    TimingRequest,
)

BATCHES: Final = (2, 4, 8)
"""Batches that are tried where an engine takes several images in one run."""
PARALLEL: Final = 2
"""Requests side by side, each on its share of the threads, that are tried against one on all."""

Act = Callable[[int], float]
"""One timing in milliseconds, given the round's number."""
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class BenchmarkBudget:
    """How long measuring may take.

    Up to `rounds` rounds, fewer once `budget_s` has passed, but at least `least_rounds`. An engine
    has `open_s` to get ready and `call_s` for one call.
    """

    rounds: int = 15
    least_rounds: int = 3
    budget_s: float = 10.0
    open_s: float = 180.0
    call_s: float = 60.0


DEFAULT_EFFORT: Final = BenchmarkBudget()


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """Which candidate, why, how images are given to it, and what every candidate showed."""

    decision: Selection
    batch: BatchPolicy
    candidates: tuple[BenchmarkResult, ...]


def measure(
    jobs: Sequence[ProbeJob],
    *,
    wanted: bool,
    cores: int,
    effort: BenchmarkBudget,
    start: ProbeFactory,
) -> BenchmarkReport:
    """Try the candidates, decide between them, then find out how to use the chosen one.

    Args:
        jobs: one for each candidate, in the bundle's order.
        wanted: the operator named the one candidate.
        cores: that an engine may compute on.
        effort: how long it may take.
        start: makes the probes; all are ended when this returns.

    Raises:
        NoneAgrees: no candidate can be chosen.
    """
    with ExitStack() as probes:
        sound, problems = _open_all(jobs, effort, start, probes)
        acts = {job: _timer(probe, TimingRequest(0), effort) for job, (probe, _) in sound.items()}
        medians, failures = _in_turns(acts, effort)
        candidates = tuple(_measurement(job, medians, problems | failures) for job in jobs)
        decision = select_variant(candidates, is_set_by_operator=wanted)
        (chosen,) = (job for job in jobs if job.variant == decision.variant)
        for job, (probe, _) in sound.items():
            if job is not chosen:
                probe.end()  # What is tried next may need the memory.
        batch = _best_use(chosen, *sound[chosen], cores=cores, effort=effort, start=start)
    return BenchmarkReport(decision, batch, candidates)


def _open_all(
    jobs: Sequence[ProbeJob], effort: BenchmarkBudget, start: ProbeFactory, probes: ExitStack
) -> tuple[dict[ProbeJob, tuple[Probe, ProbeReady]], dict[ProbeJob, ProbeFailed]]:
    """Those that are ready and agree with the golden cases, and what is wrong with the others."""
    started: dict[ProbeJob, Probe] = {}
    sound: dict[ProbeJob, tuple[Probe, ProbeReady]] = {}
    problems: dict[ProbeJob, ProbeFailed] = {}
    until = time.monotonic() + effort.open_s
    for job in jobs:
        try:
            started[job] = start(job)
            probes.callback(started[job].end)
        except OSError as error:
            problems[job] = ProbeFailed(f"could not be tried: {error}", lasting=False)
    for job, probe in started.items():
        try:
            sound[job] = (probe, _agreeing(probe.opened(until)))
        except ProbeFailed as problem:
            problems[job] = problem
            probe.end()
    return sound, problems


def _agreeing(opened: ProbeReady) -> ProbeReady:
    if opened.problems:
        raise ProbeFailed(f"disagrees with the golden cases ({opened.problems})")
    return opened


def _measurement(
    job: ProbeJob, medians: Mapping[ProbeJob, float], problems: Mapping[ProbeJob, ProbeFailed]
) -> BenchmarkResult:
    if (problem := problems.get(job)) is not None:
        return BenchmarkResult(job.variant, None, str(problem), problem.lasting)
    return BenchmarkResult(job.variant, medians[job])


def _best_use(
    job: ProbeJob,
    probe: Probe,
    opened: ProbeReady,
    *,
    cores: int,
    effort: BenchmarkBudget,
    start: ProbeFactory,
) -> BatchPolicy:
    """One image at a time, in batches, or side by side: whatever brings most of them through."""
    acts: dict[tuple[BatchPolicy, int], Act] = {}  # By policy and images in the engine at once.
    for images in (1, *BATCHES):
        if images <= opened.max_batch:
            acts[BatchPolicy(max_batch=images), images] = _timer(
                probe, TimingRequest(0, images), effort
            )
    with ExitStack() as probes:
        if cores >= PARALLEL:  # Takes an engine of its own, opened for it.
            beside = BatchPolicy(parallel_requests=PARALLEL)
            ready, _ = _open_all([replace(job, parallel_requests=PARALLEL)], effort, start, probes)
            for other, _ in ready.values():
                acts[beside, PARALLEL] = _timer(other, TimingRequest(0, calls=PARALLEL), effort)
                acts[beside, 1] = _timer(other, TimingRequest(0), effort)
        medians, _ = _in_turns(acts, effort)
    return choose_batching(
        [
            ThroughputTrial(policy, images * 1e3 / ms, medians.get((policy, 1), ms))
            for (policy, images), ms in medians.items()
            if images == policy.max_batch * policy.parallel_requests
        ]
    )


def _timer(probe: Probe, timing: TimingRequest, effort: BenchmarkBudget) -> Act:
    return lambda number: probe.time(replace(timing, number=number), effort.call_s)


def _in_turns(
    acts: Mapping[Key, Act], effort: BenchmarkBudget
) -> tuple[dict[Key, float], dict[Key, ProbeFailed]]:
    """Each act's median, and what failed instead. The first round only warms up.

    In turns, so that whatever else the box does meets all of them alike.
    """
    times: dict[Key, list[float]] = {key: [] for key in acts}
    failures: dict[Key, ProbeFailed] = {}
    until = time.monotonic() + effort.budget_s
    for number in range(effort.rounds + 1):
        if number > effort.least_rounds and time.monotonic() >= until:
            break
        for key in acts.keys() - failures.keys():
            try:
                elapsed_ms = acts[key](number)
            except ProbeFailed as failure:
                failures[key] = failure
            else:
                times[key] += [elapsed_ms] if number else []
    return {key: median(of) for key, of in times.items() if key not in failures}, failures
