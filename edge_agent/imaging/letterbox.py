"""The model's input: an image fitted into it, aspect kept, padded."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.core.geometry import Letterbox


def letterbox(
    pixels: NDArray[np.uint8], box: Letterbox, pad_value: int = 114
) -> NDArray[np.uint8]:
    """Fit an image into the model's input.

    Args:
        pixels: u8 of shape (H, W), at its original or already at its inner size.
        box: where it goes.
        pad_value: grey of the padding.

    Returns:
        u8 of shape (box.height, box.width), C-contiguous.
    """
    inner = (box.inner_height, box.inner_width)
    if pixels.shape != inner:
        shrinks = pixels.shape[0] >= inner[0] and pixels.shape[1] >= inner[1]
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        pixels = cv2.resize(pixels, inner[::-1], interpolation=interpolation)
    padded = np.full((box.height, box.width), pad_value, np.uint8)
    padded[box.top : box.top + inner[0], box.left : box.left + inner[1]] = pixels
    return padded
