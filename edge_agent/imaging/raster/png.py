"""PNG files of 1 to 16 bits; grey, colour, palette, with or without alpha."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import imagecodecs
from numpy.typing import NDArray

from edge_agent.imaging.codecs.call import call_decoder
from edge_agent.imaging.errors import (
    check_shape,
    corrupt_error,
    multi_frame_error,
    truncated_error,
)
from edge_agent.imaging.raster import tiff_directory
from edge_agent.imaging.raster.header import RasterHeader, convert_to_grey

_MAX_CHUNKS = 200_000
_GREY_TYPES = frozenset({0, 4})


def parse_png(data: memoryview) -> RasterHeader:
    """Return a PNG file's header, with a function that decodes the picture.

    Raises:
        StudyImageRefused: TRUNCATED, CORRUPT or MULTI_FRAME.
    """
    header: tuple[int, ...] = ()
    exif = b""
    for kind, body in _iter_chunks(data):
        if kind == b"IHDR":
            if header:  # The decoder would use the first one.
                raise corrupt_error("the PNG has two headers")
            header = struct.unpack_from(">LLBB", body.ljust(10, b"\0"))
        elif kind == b"acTL":
            raise multi_frame_error("an animated PNG")
        elif kind == b"eXIf":
            exif = body
    if not header:
        raise corrupt_error("the PNG has no header")
    columns, rows, bits, colour_type = header
    return RasterHeader(
        rows,
        columns,
        bits,
        tiff_directory.read_exif_orientation(exif),
        "GREY" if colour_type in _GREY_TYPES else "COLOUR",
        lambda _size: _decode(data, rows, columns),
    )


def _iter_chunks(data: memoryview) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and body of each chunk but IDAT; refuse a file without IEND."""
    position = 8
    for _ in range(_MAX_CHUNKS):
        if position + 12 > len(data):
            break
        (length,) = struct.unpack_from(">L", data, position)
        kind = bytes(data[position + 4 : position + 8])
        if kind == b"IEND":
            return
        end = position + 12 + length
        if end > len(data):
            break
        if kind != b"IDAT":
            yield kind, bytes(data[position + 8 : end - 4])
        position = end
    raise truncated_error("the PNG has no end")


def _decode(data: memoryview, rows: int, columns: int) -> NDArray[Any]:
    pixels: NDArray[Any] = call_decoder(imagecodecs.png_decode, data)
    check_shape(pixels, rows, columns)
    return convert_to_grey(pixels)
