"""A bundle's candidates for this machine, and the key under which their selection is cached."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_agent.core.engine_selection import BatchPolicy, BenchmarkResult
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.hardware import Hardware
from edge_agent.engines.runtimes.factory import runtime_version
from edge_agent.engines.selection.cache import SelectionKey
from edge_agent.engines.selection.probe import ProbeJob
from edge_agent.errors import BundleInvalid, ConfigInvalid
from hilum.manifest import EngineVariant

AUTO: Final = "auto"
SELECTIONS: Final = "selections"
"""The folder of cached selections in the agent's cache."""


@dataclass(frozen=True, slots=True)
class EngineSelection:
    """The selected variant, how images are given to it, and why.

    Attributes:
        variant: the selected variant.
        reason: why it was selected, for people.
        measured: every candidate that was tried, in the order of the trials.
        batch: how images are given to the engine.
        is_cached: True if all of this was measured at an earlier start.
        peak_bytes: the most memory that the variant's probe held; 0 if it was not tried today.
    """

    variant: EngineVariant
    reason: str
    measured: tuple[BenchmarkResult, ...]
    batch: BatchPolicy
    is_cached: bool
    peak_bytes: int = 0


def build_key(
    bundle: Bundle, candidates: Sequence[EngineVariant], wanted: str, threads: int
) -> SelectionKey:
    """Return the key of a selection.

    Args:
        bundle: the bundle.
        candidates: the variants that may be selected, in the bundle's order.
        wanted: as the operator set it.
        threads: threads that compute; 0 means one for each core.
    """
    return SelectionKey(
        hardware=Hardware.detect(),
        runtimes={c.runtime: runtime_version(c.runtime) or "" for c in candidates},
        bundle_digest=bundle.digest,
        candidates=tuple(candidate.name for candidate in candidates),
        wanted=wanted,
        threads=threads,
    )


def build_job(bundle: Bundle, variant: EngineVariant, cache_dir: Path, threads: int) -> ProbeJob:
    """Return the job of trying a variant, one image at a time.

    Args:
        bundle, variant: the candidate.
        cache_dir: the agent's cache.
        threads: threads that compute; 0 means one for each core.
    """
    return ProbeJob(
        str(bundle.path.absolute()),
        bundle.digest,
        variant.name,
        threads,
        str(cache_dir.absolute()),
    )


def find_candidates(bundle: Bundle, wanted: str, without: Collection[str]) -> list[EngineVariant]:
    """Return the variants that may be selected, in the bundle's order.

    Args:
        bundle: the bundle.
        wanted: the name of the only one that may be selected, or `AUTO`.
        without: variants that have failed on this machine since the agent started.

    Raises:
        BundleInvalid: the bundle has no variant that this agent has a runtime for.
        ConfigInvalid: the wanted variant does not run on this machine.
    """
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
