"""Colour to grey. A radiograph in colour is a screen capture or a scan of a film."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.imaging.pixel_format import BITS_PER_BYTE, has_channels

_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114  # ITU-R BT.601, as JPEG and DICOM's YBR_FULL

# Photometric interpretations whose decoded samples are red, green and blue. JPEG 2000 decoders
# undo the colour transforms of the last two.
RGB = frozenset({"RGB", "YBR_ICT", "YBR_RCT"})


def scale_to_u8(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Return unsigned values of `bits` bits scaled to the full range of u8; shape kept."""
    if bits == BITS_PER_BYTE:
        return np.asarray(values, np.uint8)
    top = (1 << bits) - 1
    scaled: NDArray[np.float32] = np.minimum(values, top).astype(np.float32) * (255 / top) + 0.5
    return scaled.astype(np.uint8)


def compute_luminance(samples: NDArray[Any], photometric: str, bits: int) -> NDArray[np.uint8]:
    """Return the luminance of colour samples.

    Args:
        samples: u8 or u16 of shape (H, W, 3), or (H, W) where only the luminance was decoded.
        photometric: DICOM's photometric interpretation, or RGB.
        bits: bits of each sample.

    Returns:
        u8 of shape (H, W).
    """
    grey = samples
    if has_channels(samples) and photometric in RGB:
        grey = cv2.cvtColor(np.ascontiguousarray(samples), cv2.COLOR_RGB2GRAY)
    elif has_channels(samples):
        grey = np.ascontiguousarray(samples[..., 0])
    grey = scale_to_u8(grey, bits)
    if photometric.startswith("YBR_PARTIAL"):
        # Black is 16 and white is 235 (PS3.3 C.7.6.3.1.2).
        ramp = np.clip((np.arange(256) - 16) * (255 / 219) + 0.5, 0, 255).astype(np.uint8)
        grey = ramp.take(grey)
    return grey


def convert_cmyk_to_grey(light: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return grey, u8 of shape (H, W), of inverted CMYK of shape (H, W, 4).

    Inverted means that 255 is no ink, as Adobe stores it.
    """
    black = light[..., 3:].astype(np.uint16)
    rgb = (light[..., :3] * black // 255).astype(np.uint8)
    return compute_luminance(rgb, "RGB", BITS_PER_BYTE)


@dataclass(frozen=True, slots=True, eq=False)
class PaletteTable:
    """Grey for each palette entry: u8 of shape (N,), the first for stored value `first`."""

    first: int
    grey: NDArray[np.uint8]

    @classmethod
    def from_colours(
        cls, first: int, red: NDArray[Any], green: NDArray[Any], blue: NDArray[Any]
    ) -> Self:
        """Make a table from a palette.

        Args:
            first: stored value of the first entry.
            red: 16-bit values of shape (N,).
            green: 16-bit values of shape (N,).
            blue: 16-bit values of shape (N,).

        Returns:
            The table.
        """
        grey = red * _RED + green * _GREEN + blue * _BLUE
        return cls(first, (grey / 257 + 0.5).astype(np.uint8))

    def apply(self, stored: NDArray[Any]) -> NDArray[np.uint8]:
        """Return grey of stored values; a value outside of the palette takes the nearest entry."""
        index = np.clip(stored.astype(np.int32) - self.first, 0, len(self.grey) - 1)
        return self.grey.take(index)
