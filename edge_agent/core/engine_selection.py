"""Which engine variant runs here, and how: decided from what was measured.

A variant that does not say what the bundle's golden cases say is out, however fast it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

TIE_SHARE: Final = 0.03
"""Medians this close (as a share of the smaller) count as equal; the bundle's order decides."""
MIN_GAIN: Final = 1.1
"""Images per second, against one at a time, that make another arrangement worth having."""
MAX_DELAY: Final = 1.5
"""How much longer an arrangement may keep one image waiting than one at a time does."""


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """What one candidate showed. `problem` says, in words, why it cannot be chosen; empty if fine.

    `median_ms` is the time of one image alone; None where it was not timed. `lasting` is false for
    a problem that may be gone next time, such as a box that was too busy.
    """

    variant: str
    median_ms: float | None = None
    problem: str = ""
    lasting: bool = True

    @property
    def agrees(self) -> bool:
        """Whether it may be chosen: timed, and as the golden cases say."""
        return self.median_ms is not None and not self.problem


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How images that wait are given to the engine.

    Up to `max_batch` of them in one call, and up to `parallel_requests` calls at once.
    """

    max_batch: int = 1
    parallel_requests: int = 1


ONE_AT_A_TIME: Final = BatchPolicy()


@dataclass(frozen=True, slots=True)
class ThroughputTrial:
    """One arrangement, measured.

    `images_per_s` with as many images waiting as it takes at once; `delay_ms` is how long one call
    keeps its images: the whole batch, or a single image with no other request beside it.
    """

    policy: BatchPolicy
    images_per_s: float
    delay_ms: float


class NoEngineAgrees(Exception):
    """No candidate may be chosen; says why of each."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The variant's name and a sentence that says why, for the log and for callers."""

    variant: str
    reason: str


def select_variant(measured: Sequence[BenchmarkResult], *, wanted: bool = False) -> Selection:
    """The fastest candidate that agrees with the golden cases.

    Args:
        measured: candidates in the bundle's order.
        wanted: the operator named the one candidate; says so in the reason.

    Raises:
        NoneAgrees: none can be chosen.
    """
    agreeing = [it for it in measured if it.agrees]
    others = [it for it in measured if not it.agrees]
    failures = "; ".join(f"{it.variant} {it.problem}" for it in others)
    if not agreeing:
        raise NoEngineAgrees(failures or "there is no candidate")
    ranked = sorted(agreeing, key=_milliseconds)
    limit = _milliseconds(ranked[0]) * (1 + TIE_SHARE)
    chosen = next(it for it in agreeing if _milliseconds(it) <= limit)
    times = ", ".join(f"{it.variant} {_milliseconds(it):.1f} ms" for it in ranked)
    if wanted:
        why = f"set by the operator; agrees with the golden cases: {times}"
    elif len(agreeing) == 1:
        why = f"the only one that agrees with the golden cases: {times}"
    elif chosen is ranked[0]:
        why = f"fastest of {len(agreeing)} that agree with the golden cases: {times}"
    else:
        why = (
            f"first in the bundle of those as fast as any of {len(agreeing)} that agree with the "
            f"golden cases: {times}"
        )
    return Selection(chosen.variant, f"{why}; not chosen: {failures}" if failures else why)


def _milliseconds(measured: BenchmarkResult) -> float:
    if measured.median_ms is None:
        raise ValueError(f"{measured.variant} was not timed")
    return measured.median_ms


def choose_batching(trials: Sequence[ThroughputTrial]) -> BatchPolicy:
    """The arrangement of most images per second that keeps no image waiting for too long.

    Another one than one image at a time must gain at least `MIN_GAIN` over it, and delay at most
    `MAX_DELAY` as long. Of equals the first is taken.
    Without a trial of one image at a time there is nothing to gain over.
    """
    alone = next((trial for trial in trials if trial.policy == ONE_AT_A_TIME), None)
    if alone is None:
        return ONE_AT_A_TIME
    worth = [
        trial
        for trial in trials
        if trial.images_per_s >= alone.images_per_s * MIN_GAIN
        and trial.delay_ms <= alone.delay_ms * MAX_DELAY
    ]
    return max(worth, key=lambda trial: trial.images_per_s, default=alone).policy
