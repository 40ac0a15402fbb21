"""Checks of single images, and the search for near-duplicates among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.imaging.inversion_check import is_likely_inverted
from edge_agent.imaging.letterbox import resize

FLAGS: Final = {
    "constant": "nearly one grey value: nothing can be seen",
    "inverted": "bone seems to be black",
    "small": "a side has fewer than 256 pixels",
    "elongated": "one side is more than twice the other",
}
NEAR_DUPLICATE: Final = 32
"""Bits of 256. Of 61 real radiographs, copies at another size, brightness, contrast or JPEG quality
differ in at most 18, different images of one patient in at least 52, of two in at least 72."""

_SIDE: Final = 16
_SMALL: Final = 256
_MIDDLE_SHARE: Final = (5, 95)
_LEAST_RANGE: Final = 12
_ROWS_AT_ONCE: Final = 1024


def find_flags(pixels: NDArray[np.uint8], rows: int, columns: int) -> tuple[str, ...]:
    """Return what is unusual about an image, as keys of `FLAGS`.

    Args:
        pixels: u8 (H, W); may have been shrunk.
        rows: height of the original in pixels.
        columns: width of the original in pixels.
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
    """Return a perceptual hash of 256 bits as hexadecimal.

    The image is shrunk to 64 x 64. Each of its lowest 16 x 16 frequencies gives one bit: above
    their median or not. Size, brightness and compression change few of the bits.
    """
    small = resize(pixels, 4 * _SIDE, 4 * _SIDE).astype(np.float32)
    low = cv2.dct(small)[:_SIDE, :_SIDE]
    bits = low > np.median(low)
    return np.packbits(bits).tobytes().hex()


def find_near_duplicates(
    fingerprints: Sequence[str], *, limit: int = NEAR_DUPLICATE
) -> list[tuple[int, int, int]]:
    """Return the pairs (i, j, differing bits), i < j, of images that differ in few bits.

    Args:
        fingerprints: as `compute_fingerprint` returns them.
        limit: the largest number of differing bits of near-duplicates.
    """
    packed = np.array([list(bytes.fromhex(hash_)) for hash_ in fingerprints], np.uint8)
    if len(packed) < 2:
        return []
    signs = np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1
    pairs = []
    for start in range(0, len(signs), _ROWS_AT_ONCE):
        # The product of two sign vectors is (equal bits) - (differing bits).
        differ = (signs.shape[1] - signs[start : start + _ROWS_AT_ONCE] @ signs.T) / 2
        for row, column in np.argwhere(differ <= limit).tolist():
            if start + row < column:
                pairs.append((start + row, column, int(differ[row, column])))
    return pairs


def merge_groups(names: Sequence[str], pairs: Sequence[tuple[int, int, int]]) -> list[str]:
    """Merge the groups of images that form pairs, directly or through other images.

    Args:
        names: the group of each image, such as its patient.
        pairs: (i, j, differing bits) as `find_near_duplicates` returns them.

    Returns:
        The merged group of each image: the first of the merged names in alphabetical order.
    """
    # Imported here, because the processes that ingest images do not need SciPy.
    from scipy.sparse import coo_array  # noqa: PLC0415
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    distinct, group_of = np.unique(np.array(names, dtype=object), return_inverse=True)
    ends = np.array([(group_of[i], group_of[j]) for i, j, _ in pairs], np.int64).reshape(-1, 2)
    links = coo_array(
        (np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(len(distinct),) * 2
    )
    _, merged = connected_components(links, directed=False)
    # `distinct` is sorted, so the first occurrence of a component is its smallest name.
    _, first = np.unique(merged, return_index=True)
    return [str(distinct[first[merged[group]]]) for group in group_of]
