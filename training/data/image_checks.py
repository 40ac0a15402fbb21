"""What one picture shows of its own quality, and which pictures are all but the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.imaging.letterbox import resize
from edge_agent.imaging.polarity import is_likely_inverted

FLAGS: Final = {
    "constant": "nearly one grey value: nothing can be seen",
    "inverted": "bone seems to be black",
    "small": "a side has fewer than 256 pixels",
    "elongated": "one side is more than twice the other",
}
NEAR_DUPLICATE: Final = 32
"""Bits of 256. Of 61 real radiographs, copies at another size, brightness, contrast or JPEG quality
differ in at most 18, different pictures of one patient in at least 52, of two in at least 72."""

_SIDE: Final = 16
_SMALL: Final = 256
_MIDDLE_SHARE: Final = (5, 95)
_LEAST_RANGE: Final = 12


def find_flags(pixels: NDArray[np.uint8], rows: int, columns: int) -> tuple[str, ...]:
    """What is odd about a picture, as keys of `FLAGS`.

    Args:
        pixels: u8 (H, W), perhaps shrunk.
        rows, columns: of the original.
    """
    low, high = np.percentile(pixels[::4, ::4], _MIDDLE_SHARE)
    found = []
    if high - low < _LEAST_RANGE:
        found.append("constant")
    elif is_likely_inverted(pixels):
        found.append("inverted")
    if min(rows, columns) < _SMALL:
        found.append("small")
    if max(rows, columns) > 2 * min(rows, columns):
        found.append("elongated")
    return tuple(found)


def compute_fingerprint(pixels: NDArray[np.uint8]) -> str:
    """Perceptual hash of 256 bits as hexadecimal.

    The lowest 16 x 16 frequencies of the picture at 64 x 64, each above or below their median:
    size, brightness and compression change few of them.
    """
    small = resize(pixels, 4 * _SIDE, 4 * _SIDE).astype(np.float32)
    low = cv2.dct(small)[:_SIDE, :_SIDE]
    bits = low > np.median(low)
    return np.packbits(bits).tobytes().hex()


def find_near_duplicates(
    fingerprints: Sequence[str], *, limit: int = NEAR_DUPLICATE
) -> list[tuple[int, int, int]]:
    """Pairs (i, j, bits that differ) with i < j of pictures that are all but the same."""
    packed = np.array([list(bytes.fromhex(hash_)) for hash_ in fingerprints], np.uint8)
    if len(packed) < 2:
        return []
    signs = np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1
    pairs = []
    for start in range(0, len(signs), 1024):
        # Of two sign vectors the product is (bits alike) - (bits that differ).
        differ = (signs.shape[1] - signs[start : start + 1024] @ signs.T) / 2
        for row, column in np.argwhere(differ <= limit).tolist():
            if start + row < column:
                pairs.append((start + row, column, int(differ[row, column])))
    return pairs


def merge_groups(names: Sequence[str], pairs: Sequence[tuple[int, int, int]]) -> list[str]:
    """One group name per picture: those that share a name or a pair, directly or not, share it."""
    parent = {name: name for name in names}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for one, other, _ in pairs:
        first, second = sorted((root(names[one]), root(names[other])))
        parent[second] = first
    return [root(name) for name in names]
