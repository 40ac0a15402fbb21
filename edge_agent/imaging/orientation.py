"""Orientations 1 to 8 of a stored picture (TIFF 6.0 and Exif 2.32, tag 274)."""

from __future__ import annotations

from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

_Item = TypeVar("_Item", bound=np.generic)

TRANSPOSING: Final = frozenset({5, 6, 7, 8})
_FLIPS_ROWS: Final = frozenset({3, 4, 7, 8})
_FLIPS_COLUMNS: Final = frozenset({2, 3, 6, 7})


def undo_flips(pixels: NDArray[_Item], orientation: int) -> NDArray[_Item]:
    """Return the pixels with an orientation's flips undone; nothing is transposed.

    A second call restores the pixels, because a flip is its own inverse.
    """
    if orientation in _FLIPS_ROWS:
        pixels = pixels[::-1]
    if orientation in _FLIPS_COLUMNS:
        pixels = pixels[:, ::-1]
    return pixels


def undo_orientation(pixels: NDArray[_Item], orientation: int) -> NDArray[_Item]:
    """Return the pixels upright: 1 is upright, 2 to 4 are flipped, 5 to 8 also transposed."""
    return undo_flips(pixels.T if orientation in TRANSPOSING else pixels, orientation)
