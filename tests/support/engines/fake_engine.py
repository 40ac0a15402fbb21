"""A fake engine without a model, whose outputs are painted into the image.

The brightest grey value `v` of an image defines its one finding: the box is the rectangle around
the pixels of that value, the class is `v % 14` and the score `v / 255`. `paint` makes such images,
so a response can be traced to its request. Values up to `QUIET` are no finding, because the
letterbox's padding has such a value. Only lossless formats keep the value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from edge_agent.core.findings import BOX_ROWS
from edge_agent.engines.base import Pixels, RawOutputs
from edge_agent.errors import EngineFailed
from hilum.catalog import CATALOG

ANCHORS: Final = 16
"""Columns of the outputs; the finding is in the first, the others are zero."""
QUIET: Final = 114
"""No finding is read from values up to this one (the usual padding's)."""


def _pass(batch: Pixels) -> None:
    """Do nothing before inference."""


class FakeEngine:
    """Implements `engines.base.Engine` in memory.

    `before` is called with each batch before inference; it may wait, count or raise.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        name: str = "fake",
        before: Callable[[Pixels], None] = _pass,
    ) -> None:
        self.name = name
        self.compute_device = "memory"
        self.max_batch = 1
        self._shape = (1, height, width)
        self._before = before
        self._closed = False

    def infer(self, batch: Pixels) -> RawOutputs:
        """See `engines.base.Engine.infer`."""
        if self._closed:
            raise EngineFailed(f"{self.name} is closed")
        if batch.dtype != np.uint8 or batch.shape[1:] != self._shape or not batch.size:
            raise EngineFailed(f"a batch of {batch.dtype} {batch.shape}, not u8 {self._shape}")
        self._before(batch)
        outputs = np.zeros((len(batch), BOX_ROWS + len(CATALOG), ANCHORS), np.float32)
        for image, answer in zip(batch, outputs, strict=True):
            _read(image[0], answer)
        return outputs

    def close(self) -> None:
        """Close the engine; afterwards `infer` raises EngineFailed."""
        self._closed = True


def paint(height: int, width: int, value: int, box: tuple[int, int, int, int]) -> Pixels:
    """Return a black u8 (height, width) image with a bright rectangle (x_min, y_min, x_max, y_max).

    `value` is above `QUIET`; the finding's class and score follow from it.
    """
    image = np.zeros((height, width), np.uint8)
    x_min, y_min, x_max, y_max = box
    image[y_min:y_max, x_min:x_max] = value
    return image


def _read(image: Pixels, answer: RawOutputs) -> None:
    value = int(image.max())
    if value <= QUIET:
        return
    rows, columns = np.nonzero(image == value)
    left, right = columns.min(), columns.max() + 1
    top, bottom = rows.min(), rows.max() + 1
    answer[:BOX_ROWS, 0] = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
    answer[BOX_ROWS + value % len(CATALOG), 0] = value / 255
