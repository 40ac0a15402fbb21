"""What JPEG and JPEG 2000 codestreams declare, read before a decoder sees them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.imaging.refusals import corrupt, truncated

_MARK, _EOI, _SOS = 0xFF, 0xD9, 0xDA
_APP0, _APP1, _APP14 = 0xE0, 0xE1, 0xEE
JPEG_LS = 0xF7
LOSSLESS = 0xC3
# SOF markers, without DHT (C4), JPG (C8) and DAC (CC) that stand among them.
_FRAMES = (frozenset(range(0xC0, 0xD0)) | {JPEG_LS}) - {0xC4, 0xC8, 0xCC}
_COD, _SOT = 0xFF52, 0xFF90
_LENGTH_BYTES, _FRAME_BYTES = 2, 6
_SIZ_BYTES, _MAX_COMPONENTS, _MAX_TILES, _TAIL = 45, 4, 65_535, 64
# A progressive picture has about ten scans; thousands are an attack on time.
_MAX_SCANS = 200


@dataclass(frozen=True, slots=True)
class JpegFacts:
    """What a JPEG or JPEG-LS codestream declares (ITU-T T.81 B.2, T.87 C.2).

    `process` is the frame's marker: 0xC0 baseline, 0xC1 extended, 0xC2 progressive, 0xC3
    lossless, 0xF7 JPEG-LS. `exif` is the EXIF block in TIFF form, empty where there is none.
    """

    process: int
    precision: int
    rows: int
    columns: int
    components: int
    adobe: bool = False
    jfif: bool = False
    exif: bytes = b""


@dataclass(frozen=True, slots=True)
class Jpeg2000Facts:
    """What a JPEG 2000 codestream declares (ITU-T T.800 A.5.1, A.6.1)."""

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool
    levels: int
    at_origin: bool


def read_jpeg(data: bytes | memoryview) -> JpegFacts:
    """Read the markers up to the first scan and make sure that the picture has an end.

    Raises:
        StudyImageRefused: TRUNCATED or CORRUPT.
    """
    data = bytes(data)
    frame: tuple[int, int, int, int, int] | None = None
    adobe = jfif = False
    exif = b""
    for marker, body, after in _segments(data):
        if marker in _FRAMES:
            if frame is not None or len(body) < _FRAME_BYTES:
                raise corrupt("it declares its size twice or not at all")
            frame = (marker, *struct.unpack_from(">BHHB", body))
        elif marker == _APP0 and body[:4] == b"JFIF":
            jfif = True
        elif marker == _APP14 and body[:5] == b"Adobe":
            adobe = True
        elif marker == _APP1 and body[:6] == b"Exif\0\0":
            exif = exif or body[6:]
        elif marker == _SOS:
            if frame is None:
                raise corrupt("a scan comes before the picture's size")
            # Entropy-coded data hold no such pair, so this is the picture's end.
            if data.find(b"\xff\xd9", after) < 0:
                raise truncated("the picture has no end")
            if data.count(b"\xff\xda", after) > _MAX_SCANS:
                raise corrupt("it has more scans than any radiograph")
            return JpegFacts(*frame, adobe=adobe, jfif=jfif, exif=exif)
    raise truncated("the picture has no end")


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker, body, and where the next one starts, for each segment before the picture data."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != _MARK:
            raise corrupt("a marker is missing")
        marker = data[position + 1]
        if marker == _MARK:
            position += 1
            continue
        if marker == _EOI:
            return
        (length,) = struct.unpack_from(">H", data, position + 2)
        end = position + 2 + length
        if length < _LENGTH_BYTES:
            raise corrupt("a marker is too short")
        if end > len(data):
            return
        yield marker, data[position + 4 : end], end
        position = end


def unwrap_jp2(data: bytes | memoryview) -> memoryview:
    """The codestream inside a JP2 file, which some writers put where the bare one belongs."""
    view = memoryview(data)
    if bytes(view[4:8]) != b"jP  ":
        return view
    start = bytes(view[:4096]).find(b"jp2c")
    return view[start + 4 :] if start > 0 else view


def read_jpeg2000(data: memoryview) -> Jpeg2000Facts:
    """Read the main header and make sure that the picture has an end.

    Raises:
        StudyImageRefused: TRUNCATED or CORRUPT.
    """
    if bytes(data[:4]) != b"\xff\x4f\xff\x51":
        raise corrupt("the picture does not begin as JPEG 2000 does")
    if len(data) < _SIZ_BYTES:
        raise truncated("the picture has no end")
    right, bottom, left, top, *tiles = struct.unpack_from(">8L", data, 8)
    (components,) = struct.unpack_from(">H", data, 40)
    rows, columns = bottom - top, right - left
    if rows <= 0 or columns <= 0 or not _tiles_cover(tiles, left, top, right, bottom):
        raise corrupt("the picture's tiles do not cover it")
    if not 1 <= components <= _MAX_COMPONENTS or len(data) < 42 + 3 * components:
        raise corrupt("the picture declares an impossible number of components")
    parts = {struct.unpack_from(">BBB", data, 42 + 3 * i) for i in range(components)}
    depth, across, down = parts.pop()
    if parts or (across, down) != (1, 1):
        raise corrupt("the picture's components differ in depth or size")
    # Padding to an even length may follow the end marker.
    if b"\xff\xd9" not in bytes(data[-_TAIL:]):
        raise truncated("the picture has no end")
    return Jpeg2000Facts(
        rows=rows,
        columns=columns,
        components=components,
        precision=(depth & 0x7F) + 1,
        signed=bool(depth & 0x80),
        levels=_levels(data, 42 + 3 * components),
        at_origin=left == top == 0,
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
    while position + 10 <= len(data):
        marker, length = struct.unpack_from(">HH", data, position)
        if marker == _COD:
            return data[position + 9]
        if marker == _SOT or length < _LENGTH_BYTES:
            break
        position += 2 + length
    return 0
