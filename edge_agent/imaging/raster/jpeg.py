"""JPEG files: baseline, extended, progressive, lossless; grey, colour, CMYK."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from edge_agent.imaging.codecs import jpeg_markers
from edge_agent.imaging.codecs.jpeg_turbo import decode_with_turbojpeg, is_turbojpeg_supported
from edge_agent.imaging.codecs.jpeg_verified import decode_and_verify_jpeg
from edge_agent.imaging.colour import convert_cmyk_to_grey
from edge_agent.imaging.errors import unsupported_pixels_error, unsupported_syntax_error
from edge_agent.imaging.raster import tiff_directory
from edge_agent.imaging.raster.header import RasterHeader, Size, convert_to_grey

_CMYK = 4
_FACTORS = (1, 2, 4)
# libjpeg's smaller pictures are sharper than averages. Where averaging still shrinks by this much
# the difference is about half a grey level in the mean.
_LEFT_TO_AVERAGE = 1.5


def parse_jpeg(data: memoryview) -> RasterHeader:
    """Read a JPEG file's declaration.

    Raises:
        StudyImageRefused: TRUNCATED, CORRUPT, UNSUPPORTED_SYNTAX or UNSUPPORTED_PIXELS.
    """
    facts = jpeg_markers.read_jpeg_header(data)
    if facts.process == jpeg_markers.JPEG_LS:
        raise unsupported_syntax_error("JPEG-LS outside of DICOM")
    if facts.components not in {1, 3, _CMYK}:
        raise unsupported_pixels_error(f"{facts.components} colours")
    how = _jpeg_scaled if is_turbojpeg_supported(facts) else _jpeg_other
    return RasterHeader(
        facts.rows,
        facts.columns,
        facts.precision,
        tiff_directory.read_exif_orientation(facts.exif),
        {1: "GREY", 3: "COLOUR"}.get(facts.components, "CMYK"),
        lambda size: how(data, facts, size),
    )


def _jpeg_scaled(data: memoryview, facts: jpeg_markers.JpegHeader, size: Size) -> NDArray[Any]:
    """Let libjpeg leave out what the size asked for does not show."""
    if facts.process == jpeg_markers.LOSSLESS:
        return decode_with_turbojpeg(data, facts)
    spare = min(facts.rows / size[0], facts.columns / size[1]) / _LEFT_TO_AVERAGE
    # A sample that lies partly outside takes in what the encoder put there.
    whole = (n for n in _FACTORS if facts.rows % n == facts.columns % n == 0)
    return decode_with_turbojpeg(data, facts, max((n for n in whole if n <= spare), default=1))


def _jpeg_other(data: memoryview, facts: jpeg_markers.JpegHeader, _size: Size) -> NDArray[Any]:
    pixels = decode_and_verify_jpeg(data, facts)
    if facts.components == _CMYK:
        return convert_cmyk_to_grey(pixels if facts.has_adobe_marker else 255 - pixels)
    return convert_to_grey(pixels)
