"""The picture inside the model's input: shrunk, centred, padded."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.core.geometry import Letterbox

PAD_VALUE = 114


def resize(pixels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Resize (H, W) or (H, W, C), of u8, u16, i16 or f32, to `height` x `width`; dtype kept.

    Shrinking averages the area under each new pixel, so that nothing thin falls between two
    samples; growing interpolates.
    """
    rows, columns = pixels.shape[:2]
    if (rows, columns) == (height, width):
        return pixels
    shrinks = height <= rows and width <= columns
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: NDArray[Any] = cv2.resize(pixels, (width, height), interpolation=how)
    return resized


def compute_inner_size(rows: int, columns: int, fit: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width that a picture comes back with: what `Letterbox.fit` says, or its own."""
    if fit is None:
        return rows, columns
    box = Letterbox.fit(rows, columns, *fit)
    return box.inner_height, box.inner_width


def apply_letterbox(
    pixels: NDArray[np.uint8], box: Letterbox, pad_value: int = PAD_VALUE
) -> NDArray[np.uint8]:
    """Place a picture in the model's input.

    Args:
        pixels: u8 of shape (H, W); one copy is enough where it already has the inner size, as
            `read_study` with `fit` delivers it.
        box: where the picture goes.
        pad_value: grey of the padding.

    Returns:
        u8 of shape (box.height, box.width), C-contiguous.
    """
    inner = resize(pixels, box.inner_height, box.inner_width)
    placed = np.empty((box.height, box.width), np.uint8)
    bottom, right = box.top + box.inner_height, box.left + box.inner_width
    placed[: box.top] = placed[bottom:] = pad_value
    placed[box.top : bottom, : box.left] = placed[box.top : bottom, right:] = pad_value
    placed[box.top : bottom, box.left : right] = inner
    return placed
