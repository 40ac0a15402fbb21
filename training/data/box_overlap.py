"""Overlap of many boxes at once."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Real = TypeVar("Real", np.float32, np.float64)


def pairwise_iou(first: NDArray[Real], second: NDArray[Real]) -> NDArray[Real]:
    """Return the intersection over union of boxes (N, 4) with boxes (M, 4), of shape (N, M).

    Boxes are given by two corners. NumPy, not `torchvision.ops.box_iou`: the import of torchvision
    takes three seconds of processor time and loads torch, which the import of a data set does not.
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)]
    overlap: NDArray[Real] = shared / (areas[0][:, None] + areas[1][None] - shared)
    return overlap
