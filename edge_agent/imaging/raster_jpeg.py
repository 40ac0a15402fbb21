"""JPEG files: baseline, extended, progressive, lossless; grey, colour, CMYK."""

from __future__ import annotations

from typing import Any

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from edge_agent.imaging import codestream, tiff
from edge_agent.imaging.colour import grey_of_cmyk
from edge_agent.imaging.declared import Declared, Size, check_shape, grey_of
from edge_agent.imaging.native import decoded
from edge_agent.imaging.refusals import unsupported_pixels, unsupported_syntax

_CMYK, _BYTE = 4, 8
_MODES = {
    1: cv2.IMREAD_GRAYSCALE,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
}
# libjpeg's smaller pictures are sharper than averages. Where averaging still shrinks by this much
# the difference is about half a grey level in the mean.
_LEFT_TO_AVERAGE = 1.5


def declare_jpeg(data: memoryview) -> Declared:
    """Read a JPEG file's declaration.

    Raises:
        StudyImageRefused: TRUNCATED, CORRUPT, UNSUPPORTED_SYNTAX or UNSUPPORTED_PIXELS.
    """
    facts = codestream.read_jpeg(data)
    if facts.process == codestream.JPEG_LS:
        raise unsupported_syntax("JPEG-LS outside of DICOM")
    if facts.components not in {1, 3, _CMYK}:
        raise unsupported_pixels(f"{facts.components} colours")
    plain = facts.precision == _BYTE and facts.components != _CMYK
    how = _jpeg_scaled if plain and facts.process in {0xC0, 0xC1, 0xC2} else _jpeg_other
    return Declared(
        facts.rows,
        facts.columns,
        facts.precision,
        tiff.exif_orientation(facts.exif),
        {1: "GREY", 3: "COLOUR"}.get(facts.components, "CMYK"),
        lambda size: how(data, facts, size),
    )


def _jpeg_scaled(data: memoryview, facts: codestream.JpegFacts, size: Size) -> NDArray[Any]:
    """Let libjpeg leave out what the size asked for does not show."""
    spare = min(facts.rows / size[0], facts.columns / size[1]) / _LEFT_TO_AVERAGE
    # A sample that lies partly outside takes in what the encoder put there.
    whole = (n for n in _MODES if facts.rows % n == facts.columns % n == 0)
    factor = max((n for n in whole if n <= spare), default=1)
    mode = _MODES[factor] | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = decoded(_by_opencv, np.frombuffer(data, np.uint8), mode)
    check_shape(pixels, -(-facts.rows // factor), -(-facts.columns // factor))
    return pixels


def _by_opencv(octets: NDArray[np.uint8], mode: int) -> NDArray[Any] | None:
    return cv2.imdecode(octets, mode)


def _jpeg_other(data: memoryview, facts: codestream.JpegFacts, _size: Size) -> NDArray[Any]:
    pixels: NDArray[Any] = decoded(imagecodecs.jpeg8_decode, data)
    check_shape(pixels, facts.rows, facts.columns)
    if facts.components == _CMYK:
        return grey_of_cmyk(pixels if facts.adobe else 255 - pixels)
    return grey_of(pixels)
