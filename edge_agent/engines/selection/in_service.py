"""Selects a bundle's engine variant on a machine that is answering requests.

One candidate at a time is tried, in a process that computes only when nothing else does and whose
memory is bounded. A selection that was measured at a start of the agent is used, but its candidate
is tried again first. What is measured here is not cached, because the machine is busy. See
docs/decisions/0096-engine-selection-in-service.md.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from edge_agent.core.engine_selection import (
    ONE_AT_A_TIME,
    BenchmarkResult,
    NoEngineAgrees,
    select_variant,
)
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.engine_process import EngineProcessFailed, ProcessLimits
from edge_agent.engines.selection.cache import CachedSelection, SelectionCache
from edge_agent.engines.selection.candidates import (
    AUTO,
    SELECTIONS,
    EngineSelection,
    build_job,
    build_key,
    find_candidates,
)
from edge_agent.engines.selection.probe import (
    Probe,
    ProbeFactory,
    ProbeJob,
    ProbeProcess,
    TimingRequest,
)
from edge_agent.errors import EngineFailed
from edge_agent.system.memory import available_memory_bytes
from hilum.manifest import EngineVariant

ROUNDS: Final = 3
"""Timings of each candidate, after one that warms it up."""
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class InService:
    """Bounds on selecting and loading a model beside one that answers requests.

    Attributes:
        memory_bytes: the most memory that a candidate may hold, its runtime's libraries included.
        open_s: seconds that a candidate has to open and to run its golden cases.
    """

    memory_bytes: int
    open_s: float


@dataclass(frozen=True, slots=True)
class _Trial:
    """The result of trying a candidate, and the most memory that it held."""

    result: BenchmarkResult
    peak_bytes: int = 0


def select_in_service(
    bundle: Bundle,
    cache_dir: Path,
    threads: int = 0,
    *,
    bounds: InService,
    wanted: str = AUTO,
    without: Collection[str] = (),
    start: ProbeFactory | None = None,
) -> EngineSelection:
    """Select the engine variant without disturbing what else the machine does. Blocks.

    Args:
        bundle: the bundle.
        cache_dir: the agent's cache; selections are read from it, none is written.
        threads: threads that compute; 0 means one for each core.
        bounds: the memory and the time of each candidate.
        wanted: the name of a variant, or `auto`.
        without: variants that have failed on this machine since it started.
        start: starts a probe; by default at idle priority and within the memory bound.

    Returns:
        The selection. Its candidate has reproduced the golden cases in a process of its own.

    Raises:
        BundleInvalid: the bundle has no variant that this agent has a runtime for.
        ConfigInvalid: the bundle has no such variant that runs on this machine, or the cache
            folder is not private.
        EngineFailed: no candidate can be used; the message names each one's problem.
    """
    limits = ProcessLimits(is_idle=True, memory_bytes=bounds.memory_bytes)
    start = start or partial(ProbeProcess, limits=limits)
    candidates = find_candidates(bundle, wanted, without)
    key = build_key(bundle, candidates, wanted, threads)
    jobs = {
        variant.name: replace(
            build_job(bundle, variant, cache_dir, threads), with_content_check=True
        )
        for variant in candidates
    }
    trials: dict[str, _Trial] = {}
    if cached := SelectionCache.open(cache_dir / SELECTIONS).load(key):
        job = replace(jobs[cached.variant], parallel_requests=cached.parallel_requests)
        trials[cached.variant] = trial = _try_candidate(job, bounds, start, rounds=0)
        if trial.result.is_eligible:
            return _use_cached(cached, bundle.variant(cached.variant), trial)
    for name, job in jobs.items():
        if name not in trials:
            trials[name] = _try_candidate(job, bounds, start, rounds=ROUNDS)
    results = [trial.result for trial in trials.values()]
    try:
        decision = select_variant(results, is_set_by_operator=wanted != AUTO)
    except NoEngineAgrees as error:
        raise EngineFailed(
            f"no engine of this bundle can be used beside the model that serves: {error}",
            hint="The model that serves goes on. A candidate that needs more memory or time may be "
            "usable after a restart of the agent.",
        ) from None
    return EngineSelection(
        bundle.variant(decision.variant),
        f"measured in service, in processor time: {decision.reason}",
        tuple(results),
        ONE_AT_A_TIME,
        is_cached=False,
        peak_bytes=trials[decision.variant].peak_bytes,
    )


def _use_cached(cached: CachedSelection, variant: EngineVariant, trial: _Trial) -> EngineSelection:
    return EngineSelection(
        variant,
        cached.reason,
        cached.measured,
        cached.batch,
        is_cached=True,
        peak_bytes=trial.peak_bytes,
    )


def check_available_memory(needed_bytes: int) -> None:
    """Check that this much memory is available.

    Raises:
        EngineProcessFailed: less is available.
    """
    available_bytes = available_memory_bytes()
    if available_bytes is not None and available_bytes < needed_bytes:
        raise EngineProcessFailed(
            f"may need {needed_bytes // _MIB} MiB of memory, "
            f"of which {available_bytes // _MIB} MiB are available",
            lasting=False,
        )


def _try_candidate(job: ProbeJob, bounds: InService, start: ProbeFactory, rounds: int) -> _Trial:
    """Open a candidate, run its golden cases, and time it.

    The time is the processor time of all threads, because at idle priority most of the passing time
    is waiting.
    """
    try:
        check_available_memory(bounds.memory_bytes)
        with _started(job, start) as probe:
            probe.opened(time.monotonic() + bounds.open_s).require_agreement()
            times_ms = [
                probe.time(TimingRequest(number, clock="cpu"), bounds.open_s)
                for number in range(rounds + 1)
            ]
            peak_bytes = probe.peak_bytes
    except EngineProcessFailed as failure:
        return _Trial(BenchmarkResult(job.variant, None, str(failure), failure.lasting))
    return _Trial(BenchmarkResult(job.variant, median(times_ms[1:] or times_ms)), peak_bytes)


@contextmanager
def _started(job: ProbeJob, start: ProbeFactory) -> Iterator[Probe]:
    try:
        probe = start(job)
    except OSError as error:
        raise EngineProcessFailed(f"could not be tried: {error}", lasting=False) from None
    try:
        yield probe
    finally:
        probe.end()
