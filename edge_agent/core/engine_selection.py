"""Selection of the engine variant and the batch policy for this machine, from benchmark results.

A variant that does not reproduce the bundle's golden cases is never selected, however fast it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

TIE_SHARE: Final = 0.03
"""Medians this close (as a share of the smaller) count as equal; the bundle's order decides."""
MIN_GAIN: Final = 1.1
"""Smallest gain in images per second, over one at a time, for which another policy is chosen."""
MAX_DELAY: Final = 1.5
"""Largest delay of an image under another policy, as a multiple of the delay one at a time."""


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """The benchmark result of one candidate.

    Attributes:
        variant: its name in the bundle.
        median_ms: the time of one image alone; None where it was not timed.
        problem: the reason, in words, why it cannot be selected; empty if there is none.
        lasting: false for a problem that may be gone next time, such as a busy machine.
    """

    variant: str
    median_ms: float | None = None
    problem: str = ""
    lasting: bool = True

    @property
    def is_eligible(self) -> bool:
        """True if the candidate was timed and reproduces the golden cases."""
        return self.median_ms is not None and not self.problem


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """The batching of waiting images for the engine.

    Attributes:
        max_batch: images in one call, at most.
        parallel_requests: calls at once, at most.
    """

    max_batch: int = 1
    parallel_requests: int = 1


ONE_AT_A_TIME: Final = BatchPolicy()


@dataclass(frozen=True, slots=True)
class ThroughputTrial:
    """The measurement of one policy.

    Attributes:
        policy: the policy.
        images_per_s: throughput with as many images waiting as the policy takes at once.
        delay_ms: duration of one call: a whole batch, or a single image without parallel requests.
    """

    policy: BatchPolicy
    images_per_s: float
    delay_ms: float


class NoEngineAgrees(Exception):
    """No candidate can be selected. The message gives the reason for each."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected variant's name, and the reason in words for the log and for callers."""

    variant: str
    reason: str


def select_variant(
    results: Sequence[BenchmarkResult], *, is_set_by_operator: bool = False
) -> Selection:
    """Select the fastest candidate that agrees with the golden cases.

    Args:
        results: the candidates' results, in the bundle's order.
        is_set_by_operator: the operator has named the only candidate, which the reason then states.

    Returns:
        The selection.

    Raises:
        NoEngineAgrees: no candidate can be selected.
    """
    eligible = [result for result in results if result.is_eligible]
    others = [result for result in results if not result.is_eligible]
    failures = "; ".join(f"{result.variant} {result.problem}" for result in others)
    if not eligible:
        raise NoEngineAgrees(failures or "there is no candidate")
    ranked = sorted(eligible, key=_get_median_ms)
    limit_ms = _get_median_ms(ranked[0]) * (1 + TIE_SHARE)
    chosen = next(result for result in eligible if _get_median_ms(result) <= limit_ms)
    times = ", ".join(f"{result.variant} {_get_median_ms(result):.1f} ms" for result in ranked)
    if is_set_by_operator:
        why = f"set by the operator; agrees with the golden cases: {times}"
    elif len(eligible) == 1:
        why = f"the only one that agrees with the golden cases: {times}"
    elif chosen is ranked[0]:
        why = f"fastest of {len(eligible)} that agree with the golden cases: {times}"
    else:
        why = (
            f"first in the bundle of those as fast as any of {len(eligible)} that agree with the "
            f"golden cases: {times}"
        )
    return Selection(chosen.variant, f"{why}; not chosen: {failures}" if failures else why)


def _get_median_ms(result: BenchmarkResult) -> float:
    if result.median_ms is None:
        raise ValueError(f"{result.variant} was not timed")
    return result.median_ms


def choose_batching(trials: Sequence[ThroughputTrial]) -> BatchPolicy:
    """Choose the policy with the highest throughput whose delay is acceptable.

    A policy is chosen over one image at a time only if its throughput is at least `MIN_GAIN` times
    as high and its delay at most `MAX_DELAY` times as long. Of equals the first is chosen. Without
    a trial of one image at a time nothing can be compared.

    Returns:
        The policy; `ONE_AT_A_TIME` where nothing can be compared.
    """
    baseline = next((trial for trial in trials if trial.policy == ONE_AT_A_TIME), None)
    if baseline is None:
        return ONE_AT_A_TIME
    better = [
        trial
        for trial in trials
        if trial.images_per_s >= baseline.images_per_s * MIN_GAIN
        and trial.delay_ms <= baseline.delay_ms * MAX_DELAY
    ]
    return max(better, key=lambda trial: trial.images_per_s, default=baseline).policy
