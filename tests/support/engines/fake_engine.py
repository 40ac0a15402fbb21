"""An engine without a model: it answers with what is painted into the picture.

For tests of everything around an engine. The brightest grey value `v` of an image says all: the
rectangle around the pixels that have it is the one finding's box, its class is `v % 14` and its
score `v / 255`. `paint` makes such images, so an answer can be traced to the request that it
belongs to. Values up to `QUIET` say nothing: the letterbox's padding must not look like a finding.
Lossless formats only: the value must survive.
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
    """What happens before inference unless the test says otherwise: nothing."""


class FakeEngine:
    """Implements `engines.base.Engine` in memory.

    `before` is called with each batch before it is looked at: let it wait, count or raise.
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
        """Afterwards `infer` raises EngineFailed."""
        self._closed = True


def paint(height: int, width: int, value: int, box: tuple[int, int, int, int]) -> Pixels:
    """A black u8 (height, width) image with one bright rectangle (x_min, y_min, x_max, y_max).

    `value` is above `QUIET`; class and score of the answer follow from it.
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
