"""Selects a bundle's engine variant for this machine by measurement, and caches the selection.

Every variant whose runtime is installed is a candidate. Each is opened in a process of its own
(`probe`), has to reproduce the bundle's golden cases, and is timed on the golden images in turns
with the others. `core.engine_selection` decides. See docs/decisions/0031-engine-by-measurement.md.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from edge_agent.core.engine_selection import NoEngineAgrees
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.selection.benchmark import (
    DEFAULT_BUDGET,
    BenchmarkBudget,
    BenchmarkReport,
    benchmark_candidates,
)
from edge_agent.engines.selection.cache import CachedSelection, SelectionCache, SelectionKey
from edge_agent.engines.selection.candidates import (
    AUTO,
    SELECTIONS,
    EngineSelection,
    build_job,
    build_key,
    find_candidates,
)
from edge_agent.engines.selection.probe import ProbeFactory, ProbeProcess
from edge_agent.errors import EngineFailed


def select_engine(
    bundle: Bundle,
    cache_dir: Path,
    threads: int = 0,
    *,
    wanted: str = AUTO,
    without: Collection[str] = (),
    budget: BenchmarkBudget = DEFAULT_BUDGET,
    start: ProbeFactory = ProbeProcess,
) -> EngineSelection:
    """Select the engine variant for this machine. Blocks for seconds unless it is cached.

    Args:
        bundle: the bundle.
        cache_dir: the agent's cache; selections and compiled models have a folder each in it.
        threads: threads that compute; 0 means one for each core.
        wanted: the name of a variant, which is selected if it agrees with the golden cases; or
            `auto`.
        without: variants that have failed on this machine since it started.
        budget: the bounds on the time of measuring.
        start: starts a probe.

    Returns:
        The selection, measured now or at an earlier start.

    Raises:
        BundleInvalid: the bundle has no variant that this agent has a runtime for.
        ConfigInvalid: the bundle has no such variant that runs on this machine, or the cache
            folder is not private.
        EngineFailed: no candidate agrees with the golden cases; the message names each one's
            problem.
    """
    candidates = find_candidates(bundle, wanted, without)
    key = build_key(bundle, candidates, wanted, threads)
    cache = SelectionCache.open(cache_dir / SELECTIONS)
    if cached := cache.load(key):
        variant = bundle.variant(cached.variant)
        return EngineSelection(
            variant, cached.reason, cached.measured, cached.batch, is_cached=True
        )
    jobs = [build_job(bundle, variant, cache_dir, threads) for variant in candidates]
    cores = threads or key.hardware.cores
    try:
        found = benchmark_candidates(
            jobs, is_set_by_operator=wanted != AUTO, cores=cores, budget=budget, start=start
        )
    except NoEngineAgrees as error:
        raise EngineFailed(
            f"no engine of this bundle reproduces the recorded findings on this machine: {error}",
            hint="This processor, or a runtime on it, does not reproduce the golden cases. "
            "Update the agent, or use another bundle or another machine.",
        ) from None
    if all(result.lasting for result in found.candidates):
        cache.store(_to_cached(found, key), key)
    variant = bundle.variant(found.decision.variant)
    return EngineSelection(
        variant, found.decision.reason, found.candidates, found.batch, is_cached=False
    )


def _to_cached(found: BenchmarkReport, key: SelectionKey) -> CachedSelection:
    return CachedSelection(
        key=key.as_text(),
        variant=found.decision.variant,
        reason=found.decision.reason,
        measured=found.candidates,
        max_batch=found.batch.max_batch,
        parallel_requests=found.batch.parallel_requests,
    )
