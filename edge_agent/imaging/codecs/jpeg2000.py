"""JPEG 2000 and HTJ2K: reads the codestream's header and decodes at the resolution needed."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_agent.imaging.codecs.call import call_decoder
from edge_agent.imaging.errors import corrupt_error, truncated_error
from edge_agent.imaging.pixel_format import (
    BITS_PER_BYTE,
    EncodedFrame,
    PixelFormat,
    StoredValues,
    sign_extend,
)

# Decoder threads within one image. The caller bounds the number of images that are decoded at once.
_THREADS = 4
_COD, _SOT = 0xFF52, 0xFF90
_SIZ_BYTES, _LENGTH_BYTES = 45, 2
# The end marker is searched for in this many bytes at the end.
_TAIL_BYTES = 64
_MAX_COMPONENTS = 4
# OpenJPEG allocates some kilobytes for each declared tile before it has read one.
_MAX_TILES = 4096
_MAX_SEGMENTS = 1000


@dataclass(frozen=True, slots=True)
class Jpeg2000Header:
    """The declarations of a JPEG 2000 codestream (ITU-T T.800 A.5.1, A.6.1).

    Attributes:
        rows: height in pixels.
        columns: width in pixels.
        components: samples per pixel.
        precision: bits per sample.
        is_signed: samples are two's complement numbers.
        levels: decomposition levels: the number of times that the resolution can be halved.
        is_at_origin: the image starts at the reference grid's origin.
    """

    rows: int
    columns: int
    components: int
    precision: int
    is_signed: bool
    levels: int
    is_at_origin: bool


def decode_jpeg2000(frame: EncodedFrame) -> StoredValues:
    """Decode JPEG 2000 or HTJ2K: with imagecodecs, or at a reduced resolution with Pillow.

    Both call OpenJPEG. imagecodecs' OpenJPH is a little faster with HTJ2K, but where it fails half
    way it returns a black picture.

    Returns:
        Stored values of shape (rows, columns) or (rows, columns, samples). Grey values may have a
        reduced resolution of at least `frame.min_size`.

    Raises:
        StudyImageRefused: TRUNCATED, CORRUPT or UNSUPPORTED_PIXELS.
    """
    data = unwrap_jp2(frame.data)
    header = read_jpeg2000_header(data)
    frame.check_declared(header.rows, header.columns, header.components, header.precision)
    reduction = _choose_reduction(header, frame)
    if reduction and header.rows * header.columns <= (Image.MAX_IMAGE_PIXELS or 0):
        return _apply_declared_sign(_decode_reduced(data, header, reduction), header, frame.format)
    pixels = call_decoder(imagecodecs.jpeg2k_decode, data, numthreads=_THREADS)
    frame.check_decoded(pixels)
    return _apply_declared_sign(pixels, header, frame.format)


def _choose_reduction(header: Jpeg2000Header, frame: EncodedFrame) -> int:
    """Return the number of times the resolution can be halved and stay at `min_size` or above."""
    form = frame.format
    # Where the signs differ the values wrap around, and an average of wrapped values is wrong.
    is_reducible = header.is_at_origin and header.is_signed == form.is_signed and form.samples == 1
    if frame.min_size is None or not is_reducible:
        return 0
    min_rows, min_columns = frame.min_size
    reduction = 0
    while (
        reduction < header.levels
        and header.rows >> (reduction + 1) >= min_rows
        and header.columns >> (reduction + 1) >= min_columns
    ):
        reduction += 1
    return reduction


def _decode_reduced(data: memoryview, header: Jpeg2000Header, reduction: int) -> NDArray[Any]:
    """Decode at 1/2**reduction of the size. Pillow has this option, imagecodecs has not."""
    # A reduced size is rounded up (T.800 B.5).
    height, width = (n + (1 << reduction) - 1 >> reduction for n in (header.rows, header.columns))
    pixels: NDArray[Any] = call_decoder(_decode_with_pillow, data, reduction, height, width)
    # Pillow shifts values to the top of the word, and signed ones so that all are positive.
    word_bits = pixels.dtype.itemsize * BITS_PER_BYTE
    values: NDArray[Any] = pixels >> pixels.dtype.type(word_bits - header.precision)
    if header.is_signed:
        values = (values.astype(np.int32) - (1 << (header.precision - 1))).astype(np.int16)
    return values


def _decode_with_pillow(data: memoryview, reduction: int, height: int, width: int) -> NDArray[Any]:
    """Decode a picture of reduced size by setting the arguments of Pillow's decoder.

    Pillow's own option, `Image.reduce`, rounds a reduced side to the nearest pixel where the
    standard rounds up; where the two differ the decoder fails. So the image keeps its full size
    here, the decoder writes into its top left corner, and that corner is returned.
    """
    with Image.open(io.BytesIO(data), formats=["JPEG2000"]) as image:
        tile = image.tile[0]
        codec_format, _full_resolution, *other_arguments = tuple(tile.args or ())
        image.tile = [
            tile._replace(
                extents=(0, 0, width, height),
                args=(codec_format, reduction, *other_arguments),
            )
        ]
        return np.asarray(image)[:height, :width]


def _apply_declared_sign(
    pixels: NDArray[Any], header: Jpeg2000Header, form: PixelFormat
) -> StoredValues:
    """Interpret samples as the data set declares them where the codestream declares another sign.

    The codestream's precision is used, not BitsStored: some writers get BitsStored wrong, while a
    decoder depends on the precision.
    """
    if form.is_signed and not header.is_signed:
        return sign_extend(pixels, header.precision)
    if header.is_signed and not form.is_signed:
        unsigned = pixels.view(f"u{pixels.dtype.itemsize}")
        pixels = unsigned & unsigned.dtype.type((1 << header.precision) - 1)
    return pixels.astype(np.int16, copy=False) if form.is_signed else pixels


def unwrap_jp2(data: bytes | memoryview) -> memoryview:
    """Return the bare codestream; some writers store a whole JP2 file in its place."""
    view = memoryview(data)
    if bytes(view[4:8]) != b"jP  ":
        return view
    start = bytes(view[:4096]).find(b"jp2c")
    return view[start + 4 :] if start > 0 else view


def read_jpeg2000_header(data: memoryview) -> Jpeg2000Header:
    """Return the main header, and refuse a picture without an end marker.

    Raises:
        StudyImageRefused: TRUNCATED or CORRUPT.
    """
    if bytes(data[:4]) != b"\xff\x4f\xff\x51":
        raise corrupt_error("the picture does not begin as JPEG 2000 does")
    if len(data) < _SIZ_BYTES:
        raise truncated_error("the picture has no end")
    right, bottom, left, top, *tiles = struct.unpack_from(">8L", data, 8)
    (components,) = struct.unpack_from(">H", data, 40)
    rows, columns = bottom - top, right - left
    if rows <= 0 or columns <= 0 or not _are_tiles_valid(tiles, left, top, right, bottom):
        raise corrupt_error("the picture's tiles do not cover it")
    if not 1 <= components <= _MAX_COMPONENTS or len(data) < 42 + 3 * components:
        raise corrupt_error("the picture declares an impossible number of components")
    formats = {struct.unpack_from(">BBB", data, 42 + 3 * i) for i in range(components)}
    depth, across, down = formats.pop()
    if formats or (across, down) != (1, 1):
        raise corrupt_error("the picture's components differ in depth or size")
    # Padding to an even length may follow the end marker.
    if b"\xff\xd9" not in bytes(data[-_TAIL_BYTES:]):
        raise truncated_error("the picture has no end")
    return Jpeg2000Header(
        rows=rows,
        columns=columns,
        components=components,
        precision=(depth & 0x7F) + 1,
        is_signed=bool(depth & 0x80),
        levels=_read_levels(data, 42 + 3 * components),
        is_at_origin=left == top == 0,
    )


def _are_tiles_valid(tiles: list[int], left: int, top: int, right: int, bottom: int) -> bool:
    """Return whether the first tile overlaps the image and the number of tiles is acceptable."""
    width, height, tile_left, tile_top = tiles
    if min(width, height) == 0 or tile_left > left or tile_top > top:
        return False
    if tile_left + width <= left or tile_top + height <= top:
        return False
    across = -(-(right - tile_left) // width)
    down = -(-(bottom - tile_top) // height)
    return across * down <= _MAX_TILES


def _read_levels(data: memoryview, position: int) -> int:
    """Return the decomposition levels of the COD segment (A.6.1); 0 where there is none."""
    for _ in range(_MAX_SEGMENTS):
        if position + 10 > len(data):
            break
        marker, length = struct.unpack_from(">HH", data, position)
        if marker == _COD:
            return data[position + 9]
        if marker == _SOT or length < _LENGTH_BYTES:
            break
        position += 2 + length
    return 0
