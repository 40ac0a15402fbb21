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
from edge_agent.imaging.pixel_format import has_channels
from edge_agent.imaging.raster.header import RasterHeader, convert_to_grey
from edge_agent.imaging.raster.tiff_directory import ORIENTATIONS, Directory, Tag, read_directory

_WHITE_IS_ZERO, _PALETTE = 0, 3
_JPEG, _CMYK, _YCBCR = 7, 5, 6
_PHOTOMETRICS = {0: "GREY", 1: "GREY", 2: "COLOUR", 3: "COLOUR", 5: "CMYK", 6: "COLOUR"}
# None, LZW, JPEG, Deflate (two numbers), PackBits, LZMA, Zstandard, WebP.
_COMPRESSIONS = frozenset({1, 5, 7, 8, 32946, 32773, 34925, 50000, 50001})
_NOT_A_PAGE = 0b101  # A bit for reduced resolution and one for a mask.
_MAX_FOLLOWING = 8
_UNSIGNED = 1
_PLANAR = 2
_MAX_SAMPLES = 5
_MAX_TILE_PIXELS = 1 << 26
# The end marker is looked for in so many bytes; a block has at most so many rows.
_TAIL_BYTES, _BLOCK_ROWS = 16, 16


def parse_tiff(data: memoryview) -> RasterHeader:
    """Return a TIFF file's header, with a function that decodes the picture.

    Raises:
        StudyImageRefused: TRUNCATED, CORRUPT, MULTI_FRAME, UNSUPPORTED_SYNTAX or
            UNSUPPORTED_PIXELS.
    """
    page = read_directory(data)
    _check_single_page(data, page)
    _check_pixels(page)
    _check_extents(page, len(data))
    photometric = page.get(Tag.PHOTOMETRIC, 1)
    orientation = page.get(Tag.ORIENTATION, 1)
    return RasterHeader(
        page.get(Tag.HEIGHT),
        page.get(Tag.WIDTH),
        page.get(Tag.BITS, 1),
        orientation if orientation in ORIENTATIONS else 1,
        _PHOTOMETRICS[photometric],
        lambda _size: _decode(data, page),
        is_inverted=photometric == _WHITE_IS_ZERO and not _is_decoded_as_rgba(page),
    )


def _check_single_page(data: memoryview, page: Directory) -> None:
    for _ in range(_MAX_FOLLOWING):
        if not page.next_offset:
            return
        page = read_directory(data, page.next_offset)
        if not page.get(Tag.SUBFILE_TYPE) & _NOT_A_PAGE:
            raise multi_frame_error("a TIFF file of several pages")
    raise multi_frame_error("a TIFF file of many pages")


def _check_pixels(page: Directory) -> None:
    compression = page.get(Tag.COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        raise unsupported_syntax_error(f"TIFF compression {compression}")
    if page.get(Tag.PHOTOMETRIC, 1) not in _PHOTOMETRICS:
        raise unsupported_pixels_error("their photometric interpretation is none of a radiograph's")
    if set(page.get_all(Tag.SAMPLE_FORMAT) or (_UNSIGNED,)) != {_UNSIGNED}:
        raise unsupported_pixels_error("signed or floating point numbers")
    if set(page.get_all(Tag.BITS) or (1,)) not in ({8}, {16}):
        raise unsupported_pixels_error("other than 8 or 16 bits each")
    if not 1 <= page.get(Tag.SAMPLES, 1) <= _MAX_SAMPLES:
        raise unsupported_pixels_error("more channels than a picture has")
    if page.get(Tag.TILE_WIDTH) * page.get(Tag.TILE_HEIGHT) > _MAX_TILE_PIXELS:
        raise corrupt_error("its tiles are larger than any picture")


def _check_extents(page: Directory, size: int) -> None:
    """Refuse a file in which a strip or tile ends beyond the file's end."""
    if any(offset + max(count, 1) > size for offset, count in _list_extents(page)):
        raise truncated_error("part of the TIFF's picture is stored beyond the end")


def _list_extents(page: Directory) -> list[tuple[int, int]]:
    """Return offset and size in bytes of each strip or tile; size 0 where it is not declared."""
    offsets = page.get_all(Tag.STRIP_OFFSETS, Tag.TILE_OFFSETS)
    counts = page.get_all(Tag.STRIP_BYTES, Tag.TILE_BYTES)
    if not offsets:
        raise corrupt_error("the TIFF does not declare where its picture is stored")
    counts = counts if len(counts) == len(offsets) else (0,) * len(offsets)
    return list(zip(offsets, counts, strict=True))


def _is_decoded_as_rgba(page: Directory) -> bool:
    """Return whether imagecodecs uses libtiff's RGBA interface for this page.

    That interface inverts white-is-zero, and undoes an orientation's flips but does not transpose.
    """
    photometric = page.get(Tag.PHOTOMETRIC, 1)
    return page.get(Tag.COMPRESSION, 1) == _JPEG or photometric in {_CMYK, _YCBCR}


def _check_jpeg_parts(data: memoryview, page: Directory) -> None:
    """Decode each strip or tile with TurboJPEG, because libtiff hides libjpeg's warnings."""
    tables, _end, rest = bytes(page.get_all(Tag.JPEG_TABLES)).rpartition(jpeg_markers.END)
    tables = tables or rest
    max_rows, max_columns, parts = _describe_parts(page)
    for offset, count in _list_extents(page)[:parts]:
        if not count:
            continue
        part = bytes(data[offset : offset + count])
        stream = tables + part.removeprefix(jpeg_markers.START) if tables else part
        if jpeg_markers.END not in stream[-_TAIL_BYTES:]:
            stream += jpeg_markers.END  # libtiff adds it, too, where the writer did not.
        header = jpeg_markers.read_jpeg_header(stream)
        if header.rows > max_rows or header.columns > max_columns:
            raise corrupt_error("a part of the TIFF's picture is larger than declared")
        if is_turbojpeg_supported(header):
            decode_with_turbojpeg(stream, header)


def _describe_parts(page: Directory) -> tuple[int, int, int]:
    """Return the most rows and columns of a strip or tile, and the number of strips or tiles."""
    height, width = page.get(Tag.HEIGHT), page.get(Tag.WIDTH)
    tile_height = page.get(Tag.TILE_HEIGHT)
    rows = tile_height or page.get(Tag.STRIP_ROWS) or height
    columns = page.get(Tag.TILE_WIDTH) or width
    planes = page.get(Tag.SAMPLES, 1) if page.get(Tag.PLANAR, 1) == _PLANAR else 1
    # The last strip may be padded to whole blocks.
    max_rows = max(tile_height, min(rows, height + _BLOCK_ROWS))
    return max_rows, columns, -(-height // rows) * -(-width // columns) * planes


def _decode(data: memoryview, page: Directory) -> NDArray[Any]:
    if page.get(Tag.COMPRESSION, 1) == _JPEG:
        _check_jpeg_parts(data, page)
    pixels: NDArray[Any] = call_decoder(imagecodecs.tiff_decode, data)
    is_planar = page.get(Tag.PLANAR, 1) == _PLANAR
    if has_channels(pixels) and is_planar and pixels.shape[0] == page.get(Tag.SAMPLES, 1):
        pixels = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    check_shape(pixels, page.get(Tag.HEIGHT), page.get(Tag.WIDTH))
    if _is_decoded_as_rgba(page):
        # Flipped back, so that the pixels are again as stored.
        pixels = undo_flips(pixels, page.get(Tag.ORIENTATION, 1))
    if page.get(Tag.PHOTOMETRIC, 1) == _PALETTE and not has_channels(pixels):
        return _apply_palette(pixels, page)
    # libtiff has converted CMYK and YCbCr to RGB.
    return convert_to_grey(pixels)


def _apply_palette(pixels: NDArray[Any], page: Directory) -> NDArray[np.uint8]:
    colours = np.array(page.get_all(Tag.COLOUR_MAP), np.float64)
    if len(colours) != 3 << page.get(Tag.BITS, 1):
        raise corrupt_error("the TIFF's palette is shorter than described")
    return PaletteTable.from_colours(0, *colours.reshape(3, -1)).apply(pixels)
