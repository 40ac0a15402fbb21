"""JPEG 2000 and HTJ2K: what a codestream declares, decoded at the resolution that is needed."""

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
from edge_agent.imaging.pixel_format import BYTE, EncodedFrame, PixelFormat, sign_extend
from edge_agent.imaging.presentation import StoredValues

# Decoder threads within one image; how many images are decoded at once is the caller's concern.
_THREADS = 4
_COD, _SOT = 0xFF52, 0xFF90
_SIZBYTES, _LENGTHBYTES, _TAIL = 45, 2, 64
_MAX_COMPONENTS = 4
# OpenJPEG sets aside some kilobytes for each tile before it has seen one.
_MAX_TILES = 4096
_MAX_SEGMENTS = 1000


@dataclass(frozen=True, slots=True)
class Jpeg2000Header:
    """What a JPEG 2000 codestream declares (ITU-T T.800 A.5.1, A.6.1)."""

    rows: int
    columns: int
    components: int
    precision: int
    is_signed: bool
    levels: int
    is_at_origin: bool


def decode_jpeg2000(frame: EncodedFrame) -> StoredValues:
    """Decode JPEG 2000 or HTJ2K: by imagecodecs, or at a reduced resolution by Pillow.

    Both call OpenJPEG. imagecodecs' OpenJPH is a little faster with HTJ2K, but where it fails half
    way it gives back a black picture.

    Returns:
        Stored values of shape (rows, columns), (rows, columns, samples), or reduced.

    Raises:
        StudyImageRefused: TRUNCATED, CORRUPT or UNSUPPORTED_PIXELS.
    """
    data = unwrap_jp2(frame.data)
    facts = read_jpeg2000_header(data)
    frame.check_declared(facts.rows, facts.columns, facts.components, facts.precision)
    reduction = _reduction(facts, frame)
    if reduction and facts.rows * facts.columns <= (Image.MAX_IMAGE_PIXELS or 0):
        return _signed_as_declared(_reduced(data, facts, reduction), facts, frame.format)
    pixels = call_decoder(imagecodecs.jpeg2k_decode, data, numthreads=_THREADS)
    frame.check_decoded(pixels)
    return _signed_as_declared(pixels, facts, frame.format)


def _reduction(facts: Jpeg2000Header, frame: EncodedFrame) -> int:
    """How many times the resolution may be halved and still suffice."""
    form = frame.format
    # Where the signs differ the values wrap around, and an average of wrapped values is none.
    sound = facts.is_at_origin and facts.is_signed == form.is_signed and form.samples == 1
    if frame.min_size is None or not sound:
        return 0
    reduction = 0
    while (
        reduction < facts.levels
        and facts.rows >> (reduction + 1) >= frame.min_size[0]
        and facts.columns >> (reduction + 1) >= frame.min_size[1]
    ):
        reduction += 1
    return reduction


def _reduced(data: memoryview, facts: Jpeg2000Header, reduction: int) -> NDArray[Any]:
    """Decode at 1/2**reduction of the size; imagecodecs has no such option, Pillow has."""
    height, width = (n + (1 << reduction) - 1 >> reduction for n in (facts.rows, facts.columns))
    pixels: NDArray[Any] = call_decoder(_by_pillow, data, reduction, height, width)
    # Pillow moves values to the top of the word, and signed ones up to zero.
    word = pixels.dtype.itemsize * BYTE
    values: NDArray[Any] = pixels >> pixels.dtype.type(word - facts.precision)
    if facts.is_signed:
        values = (values.astype(np.int32) - (1 << (facts.precision - 1))).astype(np.int16)
    return values


def _by_pillow(data: memoryview, reduction: int, height: int, width: int) -> NDArray[Any]:
    """Decode the reduced picture into the top left corner of a full-size one, and cut it out.

    Pillow's own `reduce` rounds sizes otherwise than the standard, which rounds up, and fails on
    every other image.
    """
    with Image.open(io.BytesIO(data), formats=["JPEG2000"]) as image:
        tile = image.tile[0]
        codec, _reduction, *rest = tuple(tile.args or ())
        arguments = (codec, reduction, *rest)
        image.tile = [tile._replace(extents=(0, 0, width, height), args=arguments)]
        return np.asarray(image)[:height, :width]


def _signed_as_declared(
    pixels: NDArray[Any], facts: Jpeg2000Header, form: PixelFormat
) -> StoredValues:
    """Settle where codestream and data set disagree on the sign: the data set is right.

    The codestream's precision counts, not BitsStored: writers get the one wrong, decoders cannot.
    """
    if form.is_signed and not facts.is_signed:
        return sign_extend(pixels, facts.precision)
    if facts.is_signed and not form.is_signed:
        unsigned = pixels.view(f"u{pixels.dtype.itemsize}")
        pixels = unsigned & unsigned.dtype.type((1 << facts.precision) - 1)
    return pixels.astype(np.int16, copy=False) if form.is_signed else pixels


def unwrap_jp2(data: bytes | memoryview) -> memoryview:
    """The codestream inside a JP2 file, which some writers put where the bare one belongs."""
    view = memoryview(data)
    if bytes(view[4:8]) != b"jP  ":
        return view
    start = bytes(view[:4096]).find(b"jp2c")
    return view[start + 4 :] if start > 0 else view


def read_jpeg2000_header(data: memoryview) -> Jpeg2000Header:
    """Read the main header and make sure that the picture has an end.

    Raises:
        StudyImageRefused: TRUNCATED or CORRUPT.
    """
    if bytes(data[:4]) != b"\xff\x4f\xff\x51":
        raise corrupt_error("the picture does not begin as JPEG 2000 does")
    if len(data) < _SIZBYTES:
        raise truncated_error("the picture has no end")
    right, bottom, left, top, *tiles = struct.unpack_from(">8L", data, 8)
    (components,) = struct.unpack_from(">H", data, 40)
    rows, columns = bottom - top, right - left
    if rows <= 0 or columns <= 0 or not _tiles_cover(tiles, left, top, right, bottom):
        raise corrupt_error("the picture's tiles do not cover it")
    if not 1 <= components <= _MAX_COMPONENTS or len(data) < 42 + 3 * components:
        raise corrupt_error("the picture declares an impossible number of components")
    parts = {struct.unpack_from(">BBB", data, 42 + 3 * i) for i in range(components)}
    depth, across, down = parts.pop()
    if parts or (across, down) != (1, 1):
        raise corrupt_error("the picture's components differ in depth or size")
    # Padding to an even length may follow the end marker.
    if b"\xff\xd9" not in bytes(data[-_TAIL:]):
        raise truncated_error("the picture has no end")
    return Jpeg2000Header(
        rows=rows,
        columns=columns,
        components=components,
        precision=(depth & 0x7F) + 1,
        is_signed=bool(depth & 0x80),
        levels=_levels(data, 42 + 3 * components),
        is_at_origin=left == top == 0,
    )


def _tiles_cover(tiles: list[int], left: int, top: int, right: int, bottom: int) -> bool:
    width, height, tile_left, tile_top = tiles
    if min(width, height) == 0 or tile_left > left or tile_top > top:
        return False
    if tile_left + width <= left or tile_top + height <= top:
        return False
    across = -(-(right - tile_left) // width)
    down = -(-(bottom - tile_top) // height)
    return across * down <= _MAX_TILES


def _levels(data: memoryview, position: int) -> int:
    """Decomposition levels from the COD segment (A.6.1); 0 where it is not found."""
    for _ in range(_MAX_SEGMENTS):
        if position + 10 > len(data):
            break
        marker, length = struct.unpack_from(">HH", data, position)
        if marker == _COD:
            return data[position + 9]
        if marker == _SOT or length < _LENGTHBYTES:
            break
        position += 2 + length
    return 0
