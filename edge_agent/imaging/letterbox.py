"""Letterboxing: shrinks a picture into the model's input, centres it and pads the rest."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.core.geometry import Letterbox

PAD_VALUE = 114


def resize(pixels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Resize a picture.

    Shrinking averages the area under each new pixel, so that thin structures do not fall between
    two samples. Growing interpolates.

    Args:
        pixels: u8, u16, i16 or f32 of shape (H, W) or (H, W, C).
        height: rows of the result.
        width: columns of the result.

    Returns:
        The same dtype, of shape (height, width) or (height, width, C).
    """
    rows, columns = pixels.shape[:2]
    if (rows, columns) == (height, width):
        return pixels
    is_shrinking = height <= rows and width <= columns
    interpolation = cv2.INTER_AREA if is_shrinking else cv2.INTER_LINEAR
    resized: NDArray[Any] = cv2.resize(pixels, (width, height), interpolation=interpolation)
    return resized


def compute_inner_size(rows: int, columns: int, fit: tuple[int, int] | None) -> tuple[int, int]:
    """Return the height and width at which a picture is read.

    Args:
        rows: the original's height in pixels.
        columns: the original's width in pixels.
        fit: height and width of the model's input, or None for full resolution.

    Returns:
        The inner size of the letterbox, or the original's size.
    """
    if fit is None:
        return rows, columns
    box = Letterbox.fit(rows, columns, *fit)
    return box.inner_height, box.inner_width


def apply_letterbox(
    pixels: NDArray[np.uint8], box: Letterbox, pad_value: int = PAD_VALUE
) -> NDArray[np.uint8]:
    """Resize a picture to the letterbox's inner size and pad it.

    Args:
        pixels: u8 of shape (H, W). With the inner size, as `read_study` with `fit` returns it, it
            is only copied.
        box: position and size of the picture in the input.
        pad_value: grey of the padding, 0 to 255.

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
