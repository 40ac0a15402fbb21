"""Selects a bundle's engine variant for this machine by measurement, and caches the selection.

Every variant whose runtime is installed is a candidate. Each is opened in a process of its own
(`probe`), has to reproduce the bundle's golden cases, and is timed on the golden images in turns
with the others. `core.engine_selection` decides. See docs/decisions/0031-engine-by-measurement.md.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_agent.core.engine_selection import BatchPolicy, BenchmarkResult, NoEngineAgrees
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.hardware import Hardware
from edge_agent.engines.runtimes.factory import runtime_version
from edge_agent.engines.selection.benchmark import (
    DEFAULT_BUDGET,
    BenchmarkBudget,
    BenchmarkReport,
    benchmark_candidates,
)
from edge_agent.engines.selection.cache import CachedSelection, SelectionCache, SelectionKey
from edge_agent.engines.selection.probe import ProbeFactory, ProbeJob, ProbeProcess
from edge_agent.errors import BundleInvalid, ConfigInvalid, EngineFailed
from hilum.manifest import EngineVariant

AUTO: Final = "auto"


@dataclass(frozen=True, slots=True)
class EngineSelection:
    """The selected variant, how images are given to it, and why.

    `measured` holds every candidate in the bundle's order. `is_cached` is True if all of this was
    measured at an earlier start.
    """

    variant: EngineVariant
    reason: str
    measured: tuple[BenchmarkResult, ...]
    batch: BatchPolicy
    is_cached: bool


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
    candidates = _find_candidates(bundle, wanted, without)
    key = SelectionKey(
        hardware=Hardware.detect(),
        runtimes={c.runtime: runtime_version(c.runtime) or "" for c in candidates},
        bundle_digest=bundle.digest,
        candidates=tuple(candidate.name for candidate in candidates),
        wanted=wanted,
        threads=threads,
    )
    cache = SelectionCache.open(cache_dir / "selections")
    if cached := cache.load(key):
        variant = bundle.variant(cached.variant)
        return EngineSelection(
            variant, cached.reason, cached.measured, cached.batch, is_cached=True
        )
    jobs = [
        ProbeJob(
            str(bundle.path.absolute()),
            bundle.digest,
            variant.name,
            threads,
            str(cache_dir.absolute()),
        )
        for variant in candidates
    ]
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


def _find_candidates(bundle: Bundle, wanted: str, without: Collection[str]) -> list[EngineVariant]:
    manifest = bundle.manifest
    runnable = [
        variant
        for variant in manifest.engines
        if variant.name not in without and runtime_version(variant.runtime) is not None
    ]
    if not runnable:
        raise BundleInvalid(
            f"the bundle {manifest.name} {manifest.version} has no engine that runs on this machine"
        )
    chosen = [variant for variant in runnable if wanted in {AUTO, variant.name}]
    if not chosen:
        raise ConfigInvalid(
            f"the bundle {manifest.name} {manifest.version} has no engine {wanted!r} "
            "that runs on this machine",
            hint=f"Set engine.variant to {AUTO} or to one of: "
            + ", ".join(variant.name for variant in runnable)
            + ".",
        )
    return chosen
