"""How far a figure would move on another set of the same kind: the bootstrap, all sets at once.

A set is a row of counts: how often each image is in it. The first row is the set as it is, each
further one a re-drawn set. A figure computed for all rows thus gives its value and its spread.
Images of one patient are drawn together, since they resemble each other.
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
"""f64 (R, images): in row r, how often set r holds each image."""

MetricFunction = Callable[[Counts], NDArray[np.float64]]
"""Counts (R, images) -> f64 (R,), one value per set; NaN where a set cannot tell."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the bounds that hold 95% of the re-drawn sets; `low <= value <= high`."""

    value: float
    low: float
    high: float


def draws(entries: Sequence[LabelledImage], *, resamples: int = RESAMPLES, seed: int = 0) -> Counts:
    """Counts of the set itself and of `resamples` re-drawn ones, f64 (resamples + 1, images).

    Images are drawn one by one, those of a known patient together.
    """
    names = [entry.patient or f"image {entry.image_id}" for entry in entries]
    _, unit = np.unique(np.array(names, dtype=object).astype(str), return_inverse=True)
    units = int(unit.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), resamples)
    counts: Counts = np.vstack((np.ones((1, units)), drawn))[:, unit].astype(np.float64)
    return counts


def interval(values: NDArray[np.float64], level: float = LEVEL) -> Interval | None:
    """From the values on all sets, shape (R,), the set's own first, to value and bounds.

    Percentile bounds, over the sets that can tell; widened where they leave out the value itself,
    as they may for a figure that small sets bias. None where the set itself cannot tell.
    """
    value, redrawn = float(values[0]), values[1:]
    if np.isnan(value):
        return None
    redrawn = redrawn[~np.isnan(redrawn)]
    if not redrawn.size:
        return Interval(value, value, value)
    low, high = np.quantile(redrawn, ((1 - level) / 2, (1 + level) / 2))
    return Interval(value, min(float(low), value), max(float(high), value))


def difference(a: MetricFunction, b: MetricFunction, counts: Counts) -> Interval | None:
    """The figure `a` less `b`, both on the very sets that `draws` gave.

    None where the set cannot tell, say for want of an example.
    """
    return interval(a(counts) - b(counts))
