"""The radiograph as a picture that a browser can show."""

from __future__ import annotations

import asyncio
from typing import Final

import cv2
import numpy as np

from edge_agent.core.radiograph import Radiograph
from edge_agent.decoding.decoder import Decoder
from edge_agent.errors import HilumError, Overloaded

MAX_SIDE: Final = 4096
"""Pixels along the longer side of the picture; larger radiographs are shrunk."""


class Renderer:
    """Draws study images, one at a time: it must never crowd out the detector.

    Args:
        decoder: may be the detector's own; a picture takes one of its places while it is drawn.
        max_waiting: how many may wait; one more is refused at once.
    """

    def __init__(
        self, decoder: Decoder, *, max_side: int = MAX_SIDE, max_waiting: int = 16
    ) -> None:
        self._decoder = decoder
        self._max_side = max_side
        self._max_waiting = max_waiting
        self._waiting = 0
        self._turn = asyncio.Lock()

    async def render(self, image: bytes) -> bytes:
        """Draw one study image.

        Args:
            image: the file as it is.

        Returns:
            an 8-bit greyscale PNG with the radiograph's own aspect, at most `max_side` a side.

        Raises:
            StudyImageRefused: the image cannot be looked at.
            Overloaded: too many are waiting.
            DecoderFailed: the decoder itself failed.
        """
        if self._waiting >= self._max_waiting:
            raise Overloaded("The agent already has as many pictures to draw as it may.")
        self._waiting += 1
        try:
            async with self._turn:
                side = self._max_side
                radiograph = await self._decoder.decode(image, (side, side))
                return await asyncio.to_thread(_png, radiograph, side)
        finally:
            self._waiting -= 1


def _png(radiograph: Radiograph, max_side: int) -> bytes:
    pixels = radiograph.pixels
    shrink = min(1.0, max_side / max(radiograph.facts.rows, radiograph.facts.columns))
    columns = max(1, round(radiograph.facts.columns * shrink))
    rows = max(1, round(radiograph.facts.rows * shrink))
    if pixels.shape[0] > rows or pixels.shape[1] > columns:
        shrunk = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA)
        pixels = np.asarray(shrunk, np.uint8)
    # Higher levels take up to fifty times as long for a fifth fewer bytes, mostly over loopback.
    done, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise HilumError("The picture could not be encoded.")
    return bytes(encoded)
