"""Stored values to grey: the modality, VOI and presentation look-ups in one table.

Pure. A stored value of 8 to 16 bits, signed or not, is one of 65,536 words. So the three look-ups
(PS3.3 C.11.1, C.11.2, C.11.6) are combined into one table, computed once for an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_agent.imaging.letterbox import resize
from edge_agent.imaging.pixel_format import StoredValues

_WORDS = 1 << 16
# The estimated window ignores this percentage of the pixels at either end.
_TAIL_PERCENT = 0.5
# The lowest or highest value is border or saturation if it covers more than this share.
_SPIKE_SHARE = 0.02
_SAMPLES = 1 << 17
_HALF = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class LookupTable:
    """A modality or VOI LUT (PS3.3 C.11.1.1), clamped at both ends.

    Attributes:
        first: input value of the first entry.
        bits: bits of each entry.
        values: entries, u16 of shape (N,).
    """

    first: int
    bits: int
    values: NDArray[np.uint16]

    def apply(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the table's entries for input values; shape kept."""
        index = np.clip(np.floor(x) - self.first, 0, len(self.values) - 1)
        entries: NDArray[np.float64] = self.values[index.astype(np.intp)].astype(np.float64)
        return entries


@dataclass(frozen=True, slots=True)
class Rescale:
    """The linear modality transformation: `slope` times the stored value plus `intercept`."""

    slope: float = 1.0
    intercept: float = 0.0

    def apply(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the modality values of stored values; shape kept."""
        return np.asarray(x * self.slope + self.intercept)


@dataclass(frozen=True, slots=True)
class Window:
    """A VOI window in modality values (PS3.3 C.11.2.1.2, C.11.2.1.3)."""

    centre: float
    width: float
    function: Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"] = "LINEAR"

    @property
    def is_valid(self) -> bool:
        """Return whether the standard allows this width."""
        return self.width >= 1 if self.function == "LINEAR" else self.width > 0

    def apply(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the brightness of modality values, from 0 to 1; shape kept."""
        if self.function == "SIGMOID":
            exponent = np.clip(-4 * (x - self.centre) / self.width, -700, 700)
            return np.asarray(1 / (1 + np.exp(exponent)))
        centre, width = self.centre, self.width
        if self.function == "LINEAR":
            centre, width = centre - 0.5, width - 1
        if width == 0:
            return np.asarray((x > centre).astype(np.float64))
        return np.clip((x - centre) / width + 0.5, 0, 1)


@dataclass(frozen=True, slots=True)
class Presentation:
    """The conversion of stored values to grey.

    Attributes:
        modality: converts stored values to modality values.
        voi: converts modality values to brightness; None where the header declares none.
        is_inverted: low values are bright (MONOCHROME1, or PresentationLUTShape INVERSE).
        padding: lowest and highest stored value that mark absent data, or None.
    """

    modality: LookupTable | Rescale = Rescale()
    voi: LookupTable | Window | None = None
    is_inverted: bool = False
    padding: tuple[int, int] | None = None

    def build_table(self, stored: StoredValues) -> NDArray[np.uint8]:
        """Compute the grey of each possible stored value.

        Args:
            stored: the image's stored values; only used where the header declares no VOI.

        Returns:
            u8 of shape (65536,), indexed by the stored value as an unsigned word.
        """
        words = np.arange(_WORDS, dtype=np.uint16)
        domain = (words.view(np.int16) if stored.dtype == np.int16 else words).astype(np.float64)
        with np.errstate(all="ignore"):  # A header may declare any number.
            modality = self.modality.apply(domain)
            voi = self.voi or estimate_window(self.take_sample(stored), modality)
            bright = voi.apply(modality)
        if isinstance(voi, LookupTable):
            bright /= (1 << voi.bits) - 1
        if self.is_inverted:
            bright = 1 - bright
        return (np.clip(np.nan_to_num(bright), 0, 1) * 255 + 0.5).astype(np.uint8)

    def take_sample(self, stored: StoredValues) -> StoredValues:
        """Return about 131,000 stored values spread over the image, without padding."""
        rows, columns = stored.shape
        step = max(1, round((rows * columns / _SAMPLES) ** 0.5))
        sample = stored[::step, ::step].ravel()
        padding = self.find_padding(sample)
        return sample if padding is None else sample[~padding]

    def find_padding(self, stored: StoredValues) -> NDArray[np.bool_] | None:
        """Return a mask of the stored values that mark absent data; None where there are none."""
        if self.padding is None:
            return None
        mask: NDArray[np.bool_] = (stored >= self.padding[0]) & (stored <= self.padding[1])
        return mask if mask.any() else None

    def render(self, stored: StoredValues, height: int, width: int) -> NDArray[np.uint8]:
        """Render the picture at a size: stored values are shrunk first, then looked up.

        Args:
            stored: stored values of shape (H, W).
            height: rows of the result.
            width: columns of the result.

        Returns:
            u8 of shape (height, width). Padding is 0 and is left out of the averages.
        """
        table = self.build_table(stored)
        padding = self.find_padding(stored)
        if padding is None:
            return apply_table(resize(stored, height, width), table)
        if stored.shape == (height, width):
            grey = apply_table(stored, table)
            grey[padding] = 0
            return grey
        weight = resize((~padding).astype(np.float32), height, width)
        known = np.where(padding, 0, stored).astype(np.float32)
        mean = resize(known, height, width) / np.maximum(weight, 1e-6)
        grey = apply_table(np.rint(mean).astype(stored.dtype), table)
        grey[weight < _HALF] = 0
        return grey


def apply_table(stored: StoredValues, table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the grey of stored values; shape kept."""
    index = stored.view(np.uint16) if stored.dtype == np.int16 else stored
    return table.take(index)


def estimate_window(sample: StoredValues, modality: NDArray[np.float64]) -> Window:
    """Estimate a window from the image, for files that declare none.

    Args:
        sample: stored values without padding, shape (N,).
        modality: modality value of each possible stored value, shape (65536,), indexed by the
            stored value as an unsigned word.

    Returns:
        The window from the 0.5th to the 99.5th percentile. Borders and saturated corners, which
        are a single value at the end of the histogram, are left out.
    """
    values = modality.take(sample.view(np.uint16) if sample.dtype == np.int16 else sample)
    if not values.size:
        return Window(0, 1, "LINEAR_EXACT")
    lowest, highest = values.min(), values.max()
    inside = values[_mask_without_spike(values, lowest) & _mask_without_spike(values, highest)]
    if inside.size > values.size // 10:
        values = inside
    low, high = np.percentile(values, [_TAIL_PERCENT, 100 - _TAIL_PERCENT])
    return Window(float(low + high) / 2, float(max(high - low, 1e-9)), "LINEAR_EXACT")


def _mask_without_spike(values: NDArray[np.float64], end: np.float64) -> NDArray[np.bool_]:
    """Return a mask of the values to keep: all but `end` where it covers a large share."""
    others: NDArray[np.bool_] = values != end
    share = 1 - np.count_nonzero(others) / others.size
    return others if share > _SPIKE_SHARE else np.ones_like(others)
