"""What the first picture of a TIFF file declares (TIFF 6.0), and EXIF's orientation."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from edge_agent.errors import StudyImageRefused
from edge_agent.imaging.errors import corrupt_error, truncated_error, unsupported_syntax_error

SUBFILE_TYPE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
STRIP_OFFSETS, ORIENTATION, SAMPLES, STRIP_ROWS, STRIP_BYTES, PLANAR = 273, 274, 277, 278, 279, 284
COLOUR_MAP, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 320, 322, 323, 324, 325
SAMPLE_FORMAT, JPEG_TABLES = 339, 347

_HEADER_BYTES, _ENTRY_BYTES, _INLINE_BYTES = 8, 12, 4
_CLASSIC = 42  # 43 is BigTIFF
_TYPES = {1: "B", 3: "H", 4: "L", 7: "B"}
_MAX_VALUES = 1 << 20
ORIENTATIONS = range(1, 9)
_WANTED = frozenset(
    {SUBFILE_TYPE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, STRIP_OFFSETS, ORIENTATION}
    | {SAMPLES, STRIP_ROWS, STRIP_BYTES, PLANAR, COLOUR_MAP, TILE_WIDTH, TILE_HEIGHT}
    | {TILE_OFFSETS, TILE_BYTES, SAMPLE_FORMAT, JPEG_TABLES}
)


@dataclass(frozen=True, slots=True)
class Directory:
    """One image file directory: whole-number values by tag, and where the next one lies."""

    values: dict[int, tuple[int, ...]]
    following: int

    def first(self, tag: int, default: int = 0) -> int:
        """A tag's first value, or the default."""
        return (self.values.get(tag) or (default,))[0]


def is_tiff(data: bytes | memoryview) -> bool:
    """Whether the bytes begin as a TIFF file does, BigTIFF included."""
    return bytes(data[:4]) in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}


def read_directory(data: memoryview, offset: int | None = None) -> Directory:
    """Read the directory at an offset, or the first one.

    Raises:
        StudyImageRefused: TRUNCATED, CORRUPT, or UNSUPPORTED_SYNTAX for BigTIFF.
    """
    if len(data) < _HEADER_BYTES:
        raise truncated_error("the TIFF header has no end")
    order = "<" if bytes(data[:2]) == b"II" else ">"
    version, first = struct.unpack_from(order + "HL", data, 2)
    if version != _CLASSIC:
        raise unsupported_syntax_error("BigTIFF")
    position = first if offset is None else offset
    if position + 2 > len(data):
        raise truncated_error("the TIFF directory lies beyond the end")
    (count,) = struct.unpack_from(order + "H", data, position)
    end = position + 2 + count * _ENTRY_BYTES
    if end + 4 > len(data):
        raise truncated_error("the TIFF directory has no end")
    values: dict[int, tuple[int, ...]] = {}
    for entry in range(position + 2, end, _ENTRY_BYTES):
        tag, kind, number = struct.unpack_from(order + "HHL", data, entry)
        if tag not in _WANTED:
            continue
        if tag in values or kind not in _TYPES or not number:
            # Which one holds, and whether it does, decoders do not agree about.
            raise corrupt_error("a TIFF element stands there twice, or is no whole number")
        values[tag] = _values(data, order, entry + 8, _TYPES[kind], number)
    return Directory(values, *struct.unpack_from(order + "L", data, end))


def _values(data: memoryview, order: str, at: int, kind: str, number: int) -> tuple[int, ...]:
    if number > _MAX_VALUES:
        raise corrupt_error("a TIFF element has too many values")
    layout = f"{order}{number}{kind}"
    if struct.calcsize(layout) > _INLINE_BYTES:
        (at,) = struct.unpack_from(order + "L", data, at)
    if at + struct.calcsize(layout) > len(data):
        raise truncated_error("a TIFF element lies beyond the end")
    return struct.unpack_from(layout, data, at)


def read_exif_orientation(exif: bytes) -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none that can be read."""
    if not is_tiff(exif):
        return 1
    try:
        orientation = read_directory(memoryview(exif)).first(ORIENTATION, 1)
    except (StudyImageRefused, struct.error):
        return 1  # a damaged note beside the picture is no reason to refuse it
    return orientation if orientation in ORIENTATIONS else 1
