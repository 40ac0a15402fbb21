"""Renders a radiograph as an image that a browser can show."""

from __future__ import annotations

import asyncio
from typing import Final

import cv2
import numpy as np

from edge_agent.core.radiograph import Radiograph
from edge_agent.decoding.decoder import Decoder
from edge_agent.errors import HilumError, Overloaded

MAX_SIDE: Final = 4096
"""Pixels along the longer side of the rendered image; larger radiographs are shrunk."""


class Renderer:
    """Renders study images one at a time, so that detection keeps most of the decoders."""

    def __init__(
        self, decoder: Decoder, *, max_side: int = MAX_SIDE, max_waiting: int = 16
    ) -> None:
        """Build a renderer.

        Args:
            decoder: may be the detection service's own; a rendering takes one of its places.
            max_side: pixels along the longer side of the rendered image.
            max_waiting: images that may wait; one more is refused at once.
        """
        self._decoder = decoder
        self._max_side = max_side
        self._max_waiting = max_waiting
        self._waiting = 0
        self._lock = asyncio.Lock()

    async def render(self, image: bytes) -> bytes:
        """Render one study image.

        Args:
            image: the file as it was sent.

        Returns:
            An 8-bit greyscale PNG with the radiograph's own aspect, at most `max_side` a side.

        Raises:
            StudyImageRefused: the image is not accepted.
            Overloaded: too many images wait.
            DecoderFailed: the decoder itself failed.
        """
        if self._waiting >= self._max_waiting:
            raise Overloaded("The agent already has as many images to render as it can hold.")
        self._waiting += 1
        try:
            async with self._lock:
                side = self._max_side
                radiograph = await self._decoder.decode(image, (side, side))
                return await asyncio.to_thread(_encode_png, radiograph, side)
        finally:
            self._waiting -= 1


def _encode_png(radiograph: Radiograph, max_side: int) -> bytes:
    pixels = radiograph.pixels
    shrink = min(1.0, max_side / max(radiograph.facts.rows, radiograph.facts.columns))
    columns = max(1, round(radiograph.facts.columns * shrink))
    rows = max(1, round(radiograph.facts.rows * shrink))
    if pixels.shape[0] > rows or pixels.shape[1] > columns:
        shrunk = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA)
        pixels = np.asarray(shrunk, np.uint8)
    # Higher levels take up to fifty times as long and save a fifth of the bytes, which mostly go
    # over loopback.
    is_encoded, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not is_encoded:
        raise HilumError("The image could not be encoded as PNG.")
    return bytes(encoded)
