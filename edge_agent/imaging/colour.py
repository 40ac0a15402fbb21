"""Colour to grey. A radiograph in colour is a capture of a screen or a scan of a film."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114  # ITU-R BT.601, as JPEG and DICOM's YBR_FULL
_BYTE = 8
_GREY_AXES = 2

# Photometric interpretations that arrive as red, green and blue: decoders undo the last two.
RGB = frozenset({"RGB", "YBR_ICT", "YBR_RCT"})


def scale_to_u8(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Unsigned values of `bits` bits as u8, full scale to full scale; shape kept."""
    if bits == _BYTE:
        return np.asarray(values, np.uint8)
    top = (1 << bits) - 1
    scaled: NDArray[np.float32] = np.minimum(values, top).astype(np.float32) * (255 / top) + 0.5
    return scaled.astype(np.uint8)


def compute_luminance(samples: NDArray[Any], photometric: str, bits: int) -> NDArray[np.uint8]:
    """Grey of colour samples.

    Args:
        samples: u8 or u16 of shape (H, W, 3), or (H, W) where it already is the luminance.
        photometric: DICOM's photometric interpretation, or RGB.
        bits: bits of each sample.

    Returns:
        u8 of shape (H, W).
    """
    grey = samples
    if samples.ndim > _GREY_AXES and photometric in RGB:
        grey = cv2.cvtColor(np.ascontiguousarray(samples), cv2.COLOR_RGB2GRAY)
    elif samples.ndim > _GREY_AXES:
        grey = np.ascontiguousarray(samples[..., 0])
    grey = scale_to_u8(grey, bits)
    if photometric.startswith("YBR_PARTIAL"):
        # Black is 16 and white is 235 (PS3.3 C.7.6.3.1.2).
        ramp = np.clip((np.arange(256) - 16) * (255 / 219) + 0.5, 0, 255).astype(np.uint8)
        grey = ramp.take(grey)
    return grey


def convert_cmyk_to_grey(light: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey of CMYK given as light left over, (H, W, 4): 255 is no ink, as Adobe writes it."""
    black = light[..., 3:].astype(np.uint16)
    return compute_luminance((light[..., :3] * black // 255).astype(np.uint8), "RGB", _BYTE)


@dataclass(frozen=True, slots=True, eq=False)
class PaletteTable:
    """Grey for each palette entry, u8 of shape (N,), from stored value `first` on."""

    first: int
    grey: NDArray[np.uint8]

    @classmethod
    def from_colours(
        cls, first: int, red: NDArray[Any], green: NDArray[Any], blue: NDArray[Any]
    ) -> Self:
        """Make one from colours of 16 bits, shape (N,) each."""
        grey = red * _RED + green * _GREEN + blue * _BLUE
        return cls(first, (grey / 257 + 0.5).astype(np.uint8))

    def apply(self, stored: NDArray[Any]) -> NDArray[np.uint8]:
        """Grey of stored values; those outside take the nearest entry."""
        index = np.clip(stored.astype(np.int32) - self.first, 0, len(self.grey) - 1)
        return self.grey.take(index)
