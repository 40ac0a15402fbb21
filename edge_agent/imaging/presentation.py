"""Stored values to grey: modality, VOI and presentation look-up in one table.

Pure. Every stored value of 8 to 16 bits, signed or not, is one of 65,536 words, so all three
look-ups (PS3.3 C.11.1, C.11.2, C.11.6) become a single table, computed once for an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_agent.imaging.letterbox import resize

StoredValues = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.int16]

_WORDS = 1 << 16
# The fallback window ignores this share of the pixels at either end.
_TAIL_PERCENT = 0.5
# A single value that covers more than this at the very end is border or saturation, not patient.
_SPIKE_SHARE = 0.02
_SAMPLES = 1 << 17
_HALF = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class LookupTable:
    """A modality or VOI LUT (PS3.3 C.11.1.1): input values from `first` on; ends are held."""

    first: int
    bits: int
    values: NDArray[np.uint16]

    def apply(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The table's entries for input values."""
        index = np.clip(np.floor(x) - self.first, 0, len(self.values) - 1)
        entries: NDArray[np.float64] = self.values[index.astype(np.intp)].astype(np.float64)
        return entries


@dataclass(frozen=True, slots=True)
class Rescale:
    """Modality values are `slope` times the stored value plus `intercept`."""

    slope: float = 1.0
    intercept: float = 0.0

    def apply(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Modality values of stored ones."""
        return np.asarray(x * self.slope + self.intercept)


@dataclass(frozen=True, slots=True)
class Window:
    """A VOI window in modality values (PS3.3 C.11.2.1.2, C.11.2.1.3)."""

    centre: float
    width: float
    function: Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"] = "LINEAR"

    @property
    def is_valid(self) -> bool:
        """Whether the standard allows this width."""
        return self.width >= 1 if self.function == "LINEAR" else self.width > 0

    def apply(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Brightness from 0 to 1."""
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
    """How stored values become grey.

    Attributes:
        modality: stored values to modality values.
        voi: modality values to brightness; None where the header gives none.
        inverse: whether low values are bright (MONOCHROME1, or PresentationLUTShape INVERSE).
        padding: lowest and highest stored value that mark no data at all, or None.
    """

    modality: LookupTable | Rescale = Rescale()
    voi: LookupTable | Window | None = None
    is_inverted: bool = False
    padding: tuple[int, int] | None = None

    def build_table(self, stored: StoredValues) -> NDArray[np.uint8]:
        """Grey for each stored value.

        Args:
            stored: the image's stored values; looked at only where the header gives no VOI.

        Returns:
            u8 of shape (65536,), indexed by the stored value as an unsigned word.
        """
        words = np.arange(_WORDS, dtype=np.uint16)
        domain = (words.view(np.int16) if stored.dtype == np.int16 else words).astype(np.float64)
        with np.errstate(all="ignore"):  # headers may declare any number
            modality = self.modality.apply(domain)
            voi = self.voi or estimate_window(self.take_sample(stored), modality)
            bright = voi.apply(modality)
        if isinstance(voi, LookupTable):
            bright /= (1 << voi.bits) - 1
        if self.is_inverted:
            bright = 1 - bright
        return (np.clip(np.nan_to_num(bright), 0, 1) * 255 + 0.5).astype(np.uint8)

    def take_sample(self, stored: StoredValues) -> StoredValues:
        """Some hundred thousand stored values spread over the image, padding left out."""
        rows, columns = stored.shape
        step = max(1, round((rows * columns / _SAMPLES) ** 0.5))
        sample = stored[::step, ::step].ravel()
        padding = self.find_padding(sample)
        return sample if padding is None else sample[~padding]

    def find_padding(self, stored: StoredValues) -> NDArray[np.bool_] | None:
        """Where the stored values mark no data, same shape; None where they nowhere do."""
        if self.padding is None:
            return None
        mask: NDArray[np.bool_] = (stored >= self.padding[0]) & (stored <= self.padding[1])
        return mask if mask.any() else None

    def render(self, stored: StoredValues, height: int, width: int) -> NDArray[np.uint8]:
        """The picture at a size: stored values are shrunk first, then looked up.

        Args:
            stored: stored values of shape (H, W).
            height: rows of the result.
            width: columns of the result.

        Returns:
            u8 of shape (height, width); padding is 0 and does not bleed into the picture.
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
    """Grey of stored values; both of one shape."""
    index = stored.view(np.uint16) if stored.dtype == np.int16 else stored
    return table.take(index)


def estimate_window(sample: StoredValues, modality: NDArray[np.float64]) -> Window:
    """A window that shows what the image holds, where nobody said which.

    Args:
        sample: stored values without padding, shape (N,).
        modality: modality value of each stored value as an unsigned word, shape (65536,).

    Returns:
        From the 0.5th to the 99.5th percentile. Borders and burnt-out corners, which show as
        one value at the very end of the histogram, do not count.
    """
    values = modality.take(sample.view(np.uint16) if sample.dtype == np.int16 else sample)
    if not values.size:
        return Window(0, 1, "LINEAR_EXACT")
    lowest, highest = values.min(), values.max()
    inside = values[_beyond_spike(values, lowest) & _beyond_spike(values, highest)]
    if inside.size > values.size // 10:
        values = inside
    low, high = np.percentile(values, [_TAIL_PERCENT, 100 - _TAIL_PERCENT])
    return Window(float(low + high) / 2, float(max(high - low, 1e-9)), "LINEAR_EXACT")


def _beyond_spike(values: NDArray[np.float64], end: np.float64) -> NDArray[np.bool_]:
    """All values, or all but `end` where that one covers a good part of the image."""
    away: NDArray[np.bool_] = values != end
    share = 1 - np.count_nonzero(away) / away.size
    return away if share > _SPIKE_SHARE else np.ones_like(away)
