"""How a picture lies in its file: orientations 1 to 8 of TIFF 6.0 and Exif 2.32 (tag 274)."""

from __future__ import annotations

from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

_Item = TypeVar("_Item", bound=np.generic)

TRANSPOSING: Final = frozenset({5, 6, 7, 8})
_UPSIDE_DOWN: Final = frozenset({3, 4, 7, 8})
_SIDEWAYS: Final = frozenset({2, 3, 6, 7})


def undo_flips(pixels: NDArray[_Item], orientation: int) -> NDArray[_Item]:
    """Undo an orientation's flips, which is the same as making them; nothing is transposed."""
    if orientation in _UPSIDE_DOWN:
        pixels = pixels[::-1]
    if orientation in _SIDEWAYS:
        pixels = pixels[:, ::-1]
    return pixels


def undo_orientation(pixels: NDArray[_Item], orientation: int) -> NDArray[_Item]:
    """Undo an orientation: 1 stays, 2-4 flip, 5-8 also transpose."""
    return undo_flips(pixels.T if orientation in TRANSPOSING else pixels, orientation)
