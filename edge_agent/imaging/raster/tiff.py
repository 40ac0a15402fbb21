"""TIFF files of 8 and 16 bits; strips or tiles; grey, colour, palette, CMYK."""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from edge_agent.imaging.codecs import jpeg_markers
from edge_agent.imaging.codecs.call import call_decoder
from edge_agent.imaging.codecs.jpeg_turbo import decode_with_turbojpeg, is_turbojpeg_supported
from edge_agent.imaging.colour import PaletteTable
from edge_agent.imaging.errors import (
    check_shape,
    corrupt_error,
    multi_frame_error,
    truncated_error,
    unsupported_pixels_error,
    unsupported_syntax_error,
)
from edge_agent.imaging.orientation import undo_flips
from edge_agent.imaging.raster import tiff_directory
from edge_agent.imaging.raster.header import RasterHeader, convert_to_grey

_WHITE_IS_ZERO, _PALETTE = 0, 3
_JPEG, _CMYK, _YCBCR = 7, 5, 6
_PHOTOMETRICS = {0: "GREY", 1: "GREY", 2: "COLOUR", 3: "COLOUR", 5: "CMYK", 6: "COLOUR"}
# None, LZW, JPEG, Deflate (two numbers), PackBits, LZMA, Zstandard, WebP.
_COMPRESSIONS = frozenset({1, 5, 7, 8, 32946, 32773, 34925, 50000, 50001})
_NOT_A_PAGE = 0b101  # reduced resolution, or a mask
_UNSIGNED = 1
_PLANAR = 2
_GREY_AXES, _MAX_SAMPLES = 2, 5
_MAX_TILE = 1 << 26
_TAIL, _BLOCKS = 16, 16


def parse_tiff(data: memoryview) -> RasterHeader:
    """Read a TIFF file's declaration.

    Raises:
        StudyImageRefused: TRUNCATED, CORRUPT, MULTI_FRAME, UNSUPPORTED_SYNTAX or
            UNSUPPORTED_PIXELS.
    """
    page = tiff_directory.read_directory(data)
    _check_single(data, page)
    _check_pixels(page)
    _check_extent(page, len(data))
    photometric = page.first(tiff_directory.PHOTOMETRIC, 1)
    rows, columns = page.first(tiff_directory.HEIGHT), page.first(tiff_directory.WIDTH)
    orientation = page.first(tiff_directory.ORIENTATION, 1)
    return RasterHeader(
        rows,
        columns,
        page.first(tiff_directory.BITS, 1),
        orientation if orientation in tiff_directory.ORIENTATIONS else 1,
        _PHOTOMETRICS[photometric],
        lambda _size: _decoded(data, page),
        is_inverted=photometric == _WHITE_IS_ZERO and not _by_rgba(page),
    )


def _check_single(data: memoryview, page: tiff_directory.Directory) -> None:
    following = page.following
    for _ in range(8):
        if not following:
            return
        page = tiff_directory.read_directory(data, following)
        if not page.first(tiff_directory.SUBFILE_TYPE) & _NOT_A_PAGE:
            raise multi_frame_error("a TIFF file of several pages")
        following = page.following
    raise multi_frame_error("a TIFF file of many pages")


def _check_pixels(page: tiff_directory.Directory) -> None:
    compression = page.first(tiff_directory.COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        raise unsupported_syntax_error(f"TIFF compression {compression}")
    if page.first(tiff_directory.PHOTOMETRIC, 1) not in _PHOTOMETRICS:
        raise unsupported_pixels_error("their photometric interpretation is none of a radiograph's")
    if set(page.values.get(tiff_directory.SAMPLE_FORMAT, (_UNSIGNED,))) != {_UNSIGNED}:
        raise unsupported_pixels_error("signed or floating point numbers")
    bits = set(page.values.get(tiff_directory.BITS, (1,)))
    if bits not in ({8}, {16}):
        raise unsupported_pixels_error("other than 8 or 16 bits each")
    if not 1 <= page.first(tiff_directory.SAMPLES, 1) <= _MAX_SAMPLES:
        raise unsupported_pixels_error("more channels than a picture has")
    if page.first(tiff_directory.TILE_WIDTH) * page.first(tiff_directory.TILE_HEIGHT) > _MAX_TILE:
        raise corrupt_error("its tiles are larger than any picture")


def _check_extent(page: tiff_directory.Directory, size: int) -> None:
    """Make sure that all strips or tiles lie inside of the file."""
    if any(offset + max(count, 1) > size for offset, count in _extents(page)):
        raise truncated_error("part of the TIFF's picture lies beyond the end")


def _extents(page: tiff_directory.Directory) -> list[tuple[int, int]]:
    """Where each strip or tile starts, and how many bytes it has; 0 where that is not said."""
    offsets = (
        page.values.get(tiff_directory.STRIP_OFFSETS)
        or page.values.get(tiff_directory.TILE_OFFSETS)
        or ()
    )
    counts = (
        page.values.get(tiff_directory.STRIP_BYTES)
        or page.values.get(tiff_directory.TILE_BYTES)
        or ()
    )
    if not offsets:
        raise corrupt_error("the TIFF does not say where its picture lies")
    counts = counts if len(counts) == len(offsets) else (0,) * len(offsets)
    return list(zip(offsets, counts, strict=True))


def _by_rgba(page: tiff_directory.Directory) -> bool:
    """Whether imagecodecs goes by libtiff's RGBA interface.

    It inverts white-is-zero, and of an orientation it undoes the flips but does not transpose.
    """
    photometric = page.first(tiff_directory.PHOTOMETRIC, 1)
    return page.first(tiff_directory.COMPRESSION, 1) == _JPEG or photometric in {_CMYK, _YCBCR}


def _check_jpeg(data: memoryview, page: tiff_directory.Directory) -> None:
    """Decode each strip or tile by itself: libtiff does not tell where libjpeg had to guess."""
    tables, _end, rest = bytes(page.values.get(tiff_directory.JPEG_TABLES, ())).rpartition(
        jpeg_markers.END
    )
    tables = tables or rest
    rows, columns, parts = _parts(page)
    for offset, count in _extents(page)[:parts]:
        if not count:
            continue
        part = bytes(data[offset : offset + count])
        stream = tables + part.removeprefix(jpeg_markers.START) if tables else part
        if jpeg_markers.END not in stream[-_TAIL:]:
            stream += jpeg_markers.END  # As libtiff does where the writer did not.
        facts = jpeg_markers.read_jpeg_header(stream)
        if facts.rows > rows or facts.columns > columns:
            raise corrupt_error("a part of the TIFF's picture is larger than declared")
        if is_turbojpeg_supported(facts):
            decode_with_turbojpeg(stream, facts)


def _parts(page: tiff_directory.Directory) -> tuple[int, int, int]:
    """Rows and columns of a strip or tile at most, and how many of them make the picture."""
    height, width = page.first(tiff_directory.HEIGHT), page.first(tiff_directory.WIDTH)
    rows = page.first(tiff_directory.TILE_HEIGHT) or page.first(tiff_directory.STRIP_ROWS) or height
    columns = page.first(tiff_directory.TILE_WIDTH) or width
    planes = (
        page.first(tiff_directory.SAMPLES, 1)
        if page.first(tiff_directory.PLANAR, 1) == _PLANAR
        else 1
    )
    # The last strip may go on to the end of its blocks.
    at_most = max(page.first(tiff_directory.TILE_HEIGHT), min(rows, height + _BLOCKS))
    return at_most, columns, -(-height // rows) * -(-width // columns) * planes


def _decoded(data: memoryview, page: tiff_directory.Directory) -> NDArray[Any]:
    if page.first(tiff_directory.COMPRESSION, 1) == _JPEG:
        _check_jpeg(data, page)
    pixels: NDArray[Any] = call_decoder(imagecodecs.tiff_decode, data)
    samples = page.first(tiff_directory.SAMPLES, 1)
    if (
        pixels.ndim > _GREY_AXES
        and page.first(tiff_directory.PLANAR, 1) == _PLANAR
        and pixels.shape[0] == samples
    ):
        pixels = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    check_shape(pixels, page.first(tiff_directory.HEIGHT), page.first(tiff_directory.WIDTH))
    if _by_rgba(page):
        pixels = undo_flips(
            pixels, page.first(tiff_directory.ORIENTATION, 1)
        )  # As it is stored again.
    photometric = page.first(tiff_directory.PHOTOMETRIC, 1)
    if photometric == _PALETTE and pixels.ndim == _GREY_AXES:
        return _looked_up(pixels, page)
    # libtiff has turned CMYK and YCbCr into RGB.
    return convert_to_grey(pixels)


def _looked_up(pixels: NDArray[Any], page: tiff_directory.Directory) -> NDArray[np.uint8]:
    colours = np.array(page.values.get(tiff_directory.COLOUR_MAP, ()), np.float64)
    if len(colours) != 3 << page.first(tiff_directory.BITS, 1):
        raise corrupt_error("the TIFF's palette is shorter than described")
    return PaletteTable.from_colours(0, *colours.reshape(3, -1)).apply(pixels)
