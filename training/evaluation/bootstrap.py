"""Bootstrap confidence intervals, computed for all resampled sets at once.

A set is a row of counts that gives how often it holds each image. The first row is the original
set, each further one a resampled set. A metric computed for all rows thus gives its value and its
spread. Images of one patient are resampled together, because they resemble each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import LabelledImage

RESAMPLES: Final = 1000
LEVEL: Final = 0.95

Counts = NDArray[np.float64]
"""f64 (R, images): row r gives how often set r holds each image."""

MetricFunction = Callable[[Counts], NDArray[np.float64]]
"""Counts (R, images) -> f64 (R,), one value per set; NaN where it is undefined for the set."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A metric's value and the bounds of its 95% interval; `low <= value <= high`."""

    value: float
    low: float
    high: float


def draw_resamples(
    entries: Sequence[LabelledImage], *, resamples: int = RESAMPLES, seed: int = 0
) -> Counts:
    """Draw resampled sets: one patient at a time, or one image where the patient is unknown.

    Args:
        entries: the images of the original set.
        resamples: number of resampled sets.
        seed: seed of the random generator.

    Returns:
        Counts of the original set and of the resampled ones, f64 (resamples + 1, images).
    """
    names = [entry.patient or f"image {entry.image_id}" for entry in entries]
    _, unit = np.unique(np.array(names, dtype=object).astype(str), return_inverse=True)
    units = int(unit.max()) + 1
    resampled = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), resamples)
    counts: Counts = np.vstack((np.ones((1, units)), resampled))[:, unit].astype(np.float64)
    return counts


def estimate_interval(values: NDArray[np.float64], level: float = LEVEL) -> Interval | None:
    """Return the value on the original set with the percentile bounds over the resampled sets.

    Resampled sets for which the metric is undefined are left out. The bounds are widened where
    they exclude the value itself, which can happen for a metric that is biased on small sets.

    Args:
        values: the metric on all sets, f64 (R,), the original set first.
        level: coverage of the interval.

    Returns:
        The interval; None where the metric is undefined for the original set.
    """
    value, resampled = float(values[0]), values[1:]
    if np.isnan(value):
        return None
    resampled = resampled[~np.isnan(resampled)]
    if not resampled.size:
        return Interval(value, value, value)
    low, high = np.quantile(resampled, ((1 - level) / 2, (1 + level) / 2))
    return Interval(value, min(float(low), value), max(float(high), value))


def estimate_difference(a: MetricFunction, b: MetricFunction, counts: Counts) -> Interval | None:
    """Return the difference `a - b`, both computed on the same resampled sets.

    Args:
        a: a metric.
        b: the metric that is subtracted.
        counts: f64 (R, images) from `draw_resamples`.

    Returns:
        The interval; None where the difference is undefined for the original set.
    """
    return estimate_interval(a(counts) - b(counts))
