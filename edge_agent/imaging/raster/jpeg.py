"""JPEG files: baseline, extended, progressive, lossless; grey, colour, CMYK."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from edge_agent.imaging.codecs import jpeg_markers
from edge_agent.imaging.codecs.jpeg_markers import JpegHeader
from edge_agent.imaging.codecs.jpeg_turbo import decode_with_turbojpeg, is_turbojpeg_supported
from edge_agent.imaging.codecs.jpeg_verified import decode_and_verify_jpeg
from edge_agent.imaging.colour import convert_cmyk_to_grey
from edge_agent.imaging.errors import unsupported_pixels_error, unsupported_syntax_error
from edge_agent.imaging.raster import tiff_directory
from edge_agent.imaging.raster.header import RasterHeader, Size, convert_to_grey

_CMYK = 4
_PHOTOMETRICS = {1: "GREY", 3: "COLOUR", _CMYK: "CMYK"}
_FACTORS = (1, 2, 4)
# libjpeg's reduced pictures are sharper than averages. Where averaging still shrinks by at least
# this factor, the mean difference is about half a grey level.
_MIN_AVERAGING = 1.5


def parse_jpeg(data: memoryview) -> RasterHeader:
    """Return a JPEG file's header, with a function that decodes the picture.

    Raises:
        StudyImageRefused: TRUNCATED, CORRUPT, UNSUPPORTED_SYNTAX or UNSUPPORTED_PIXELS.
    """
    header = jpeg_markers.read_jpeg_header(data)
    if header.process == jpeg_markers.JPEG_LS:
        raise unsupported_syntax_error("JPEG-LS outside of DICOM")
    if header.components not in _PHOTOMETRICS:
        raise unsupported_pixels_error(f"{header.components} colours")
    decode = _decode_scaled if is_turbojpeg_supported(header) else _decode_verified
    return RasterHeader(
        header.rows,
        header.columns,
        header.precision,
        tiff_directory.read_exif_orientation(header.exif),
        _PHOTOMETRICS[header.components],
        lambda size: decode(data, header, size),
    )


def _decode_scaled(data: memoryview, header: JpegHeader, size: Size) -> NDArray[Any]:
    """Decode at a half or a quarter of the resolution where `size` allows it."""
    if header.process == jpeg_markers.LOSSLESS:
        return decode_with_turbojpeg(data, header)
    shrinkage = min(header.rows / size[0], header.columns / size[1]) / _MIN_AVERAGING
    # A sample that is partly outside of the picture would include the encoder's padding.
    exact = (n for n in _FACTORS if header.rows % n == header.columns % n == 0)
    factor = max((n for n in exact if n <= shrinkage), default=1)
    return decode_with_turbojpeg(data, header, factor)


def _decode_verified(data: memoryview, header: JpegHeader, _size: Size) -> NDArray[Any]:
    pixels = decode_and_verify_jpeg(data, header)
    if header.components == _CMYK:
        return convert_cmyk_to_grey(pixels if header.has_adobe_marker else 255 - pixels)
    return convert_to_grey(pixels)
