"""The directories of a TIFF file (TIFF 6.0), and EXIF's orientation, which is stored in one."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from edge_agent.errors import StudyImageRefused
from edge_agent.imaging.errors import corrupt_error, truncated_error, unsupported_syntax_error


class Tag(IntEnum):
    """The elements that are read; all others are skipped."""

    SUBFILE_TYPE = 254
    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES = 277
    STRIP_ROWS = 278
    STRIP_BYTES = 279
    PLANAR = 284
    COLOUR_MAP = 320
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    TILE_OFFSETS = 324
    TILE_BYTES = 325
    SAMPLE_FORMAT = 339
    JPEG_TABLES = 347


ORIENTATIONS: Final = range(1, 9)

_TAGS: Final = frozenset(Tag)
_HEADER_BYTES, _ENTRY_BYTES, _INLINE_BYTES = 8, 12, 4
_CLASSIC = 42  # 43 is BigTIFF
# Formats of the whole-number types: BYTE, SHORT, LONG, and UNDEFINED, which JPEG tables have.
_TYPES = {1: "B", 3: "H", 4: "L", 7: "B"}
_MAX_VALUES = 1 << 20


@dataclass(frozen=True, slots=True)
class Directory:
    """An image file directory (IFD).

    Attributes:
        values: whole numbers by tag.
        next_offset: offset of the next directory; 0 for none.
    """

    values: dict[int, tuple[int, ...]]
    next_offset: int

    def get(self, tag: Tag, default: int = 0) -> int:
        """Return a tag's first value, or the default."""
        return (self.values.get(tag) or (default,))[0]

    def get_all(self, *tags: Tag) -> tuple[int, ...]:
        """Return all values of the first of these tags that has any; empty if none has."""
        return next((self.values[tag] for tag in tags if self.values.get(tag)), ())


def is_tiff(data: bytes | memoryview) -> bool:
    """Return whether the bytes begin as a TIFF file does, BigTIFF included."""
    return bytes(data[:4]) in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}


def read_directory(data: memoryview, offset: int | None = None) -> Directory:
    """Read the directory at an offset, or the first one.

    Args:
        data: the file.
        offset: where the directory starts, or None for the first one.

    Returns:
        The directory.

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
        raise truncated_error("the TIFF directory begins beyond the end")
    (count,) = struct.unpack_from(order + "H", data, position)
    end = position + 2 + count * _ENTRY_BYTES
    if end + 4 > len(data):
        raise truncated_error("the TIFF directory has no end")
    values: dict[int, tuple[int, ...]] = {}
    for entry in range(position + 2, end, _ENTRY_BYTES):
        tag, kind, number = struct.unpack_from(order + "HHL", data, entry)
        if tag not in _TAGS:
            continue
        if tag in values or kind not in _TYPES or not number:
            # Decoders disagree about which of two elements counts, and about odd types.
            raise corrupt_error("a TIFF element is stored twice, or is no whole number")
        values[tag] = _read_values(data, order, entry + 8, _TYPES[kind], number)
    return Directory(values, *struct.unpack_from(order + "L", data, end))


def _read_values(
    data: memoryview, order: str, position: int, kind: str, number: int
) -> tuple[int, ...]:
    """Read an element's values, which are inline if they fit in four bytes."""
    if number > _MAX_VALUES:
        raise corrupt_error("a TIFF element has too many values")
    layout = f"{order}{number}{kind}"
    if struct.calcsize(layout) > _INLINE_BYTES:
        (position,) = struct.unpack_from(order + "L", data, position)
    if position + struct.calcsize(layout) > len(data):
        raise truncated_error("a TIFF element ends beyond the end")
    return struct.unpack_from(layout, data, position)


def read_exif_orientation(exif: bytes) -> int:
    """Return EXIF's orientation, 1 to 8; 1 where it is absent or cannot be read."""
    if not is_tiff(exif):
        return 1
    try:
        orientation = read_directory(memoryview(exif)).get(Tag.ORIENTATION, 1)
    except (StudyImageRefused, struct.error):
        return 1  # Damaged EXIF is no reason to refuse the picture.
    return orientation if orientation in ORIENTATIONS else 1
