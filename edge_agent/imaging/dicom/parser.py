"""The DICOM file format (PS3.10, PS3.5): untrusted bytes to elements.

The parser is on the path of every image and reads hostile files. It copies nothing, allocates no
more than the file's own size, bounds its work, enters a sequence only on demand, and never writes a
value to a log line or a warning. `dicom.header` interprets the values.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from edge_agent.errors import StudyImageRefused
from edge_agent.imaging.errors import corrupt_error, truncated_error
from edge_agent.imaging.limits import Limits

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"

TRANSFER_SYNTAX = 0x0002_0010
PIXEL_DATA = 0x7FE0_0010
FLOAT_PIXELS = frozenset({0x7FE0_0008, 0x7FE0_0009})

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFE_E000, 0xFFFE_E00D, 0xFFFE_E0DD
_DELIMITERS = frozenset({_ITEM, _ITEM_END, _SEQUENCE_END})
_UNDEFINED = 0xFFFF_FFFF
_MIN_BARE_BYTES = 16
# A data set without preamble begins with (0008,0000) to (0008,0020), shorter than this.
_IDENTIFYING_GROUP, _MAX_FIRST_ELEMENT = 0x0008, 0x0020
_MAX_FIRST_LENGTH = 256
_MAX_ELEMENTS = 200_000
_MAX_DEPTH = 16

_SHORT_VRS = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"PN"}
    | {b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}
)
_LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)


@dataclass(frozen=True, slots=True)
class Encoding:
    """The encoding of elements: byte order, and explicit or implicit VR."""

    is_little_endian: bool = True
    is_explicit: bool = True


@dataclass(frozen=True, slots=True)
class Element:
    """A data element as stored in the file.

    Attributes:
        vr: its VR; empty where the encoding is implicit.
        value: its bytes. A sequence's value is its items, with their tags.
        encoding: the encoding of the value.
    """

    vr: str
    value: memoryview
    encoding: Encoding


@dataclass(frozen=True, slots=True)
class DicomFile:
    """The contents of a DICOM file.

    Attributes:
        syntax: transfer syntax UID; derived from the bytes where the file declares none.
        elements: top-level elements by tag, up to the pixel data.
        encoding: the encoding of the data set.
        native: pixel data that is not encapsulated, or None.
        pixel_vr: VR of `native`.
        fragments: encapsulated pixel data without the offset table, or None.
        has_float_pixels: the pixels are floating point numbers.
    """

    syntax: str
    elements: dict[int, Element]
    encoding: Encoding
    native: memoryview | None = None
    pixel_vr: str = ""
    fragments: tuple[memoryview, ...] | None = None
    has_float_pixels: bool = False


def is_dicom(data: memoryview) -> bool:
    """Return whether the bytes begin as a DICOM file does, with or without its preamble."""
    return bytes(data[128:132]) == b"DICM" or _detect_bare_encoding(data) is not None


def parse_dicom(data: memoryview, limits: Limits) -> DicomFile:
    """Read the file's elements up to and including the pixel data.

    Args:
        data: the file.
        limits: bounds, of which the size of an inflated data set is checked here.

    Returns:
        The file's contents, as views of its bytes.

    Raises:
        StudyImageRefused: TRUNCATED, CORRUPT, or TOO_LARGE where a deflated data set inflates
            beyond `limits.max_bytes`.
    """
    start = 132 if bytes(data[128:132]) == b"DICM" else 0
    meta_end, syntax = _read_meta(data, start)
    if syntax == DEFLATED:
        data, meta_end = _inflate(data[meta_end:], limits), 0
    encoding = _detect_encoding(data, meta_end, syntax)
    if not syntax:
        syntax = _name_syntax(encoding)
    return _read_data_set(data, meta_end, syntax, encoding)


def read_items(element: Element) -> list[dict[int, Element]]:
    """Return the items of a sequence, each as elements by tag; empty where it is none."""
    reader = _Reader(element.value, element.encoding)
    items: list[dict[int, Element]] = []
    position = 0
    while position + 8 <= len(element.value):
        reader.count_element()
        tag, length = reader.read_item_header(position)
        if tag != _ITEM:
            break
        item, position = reader.read_item_elements(position + 8, length)
        items.append(item)
    return items


@dataclass(slots=True)
class _Reader:
    """Reads elements at given positions of one buffer."""

    data: memoryview
    encoding: Encoding
    element_count: int = 0
    _order: str = field(init=False)

    def __post_init__(self) -> None:
        self._order = "<" if self.encoding.is_little_endian else ">"

    def count_element(self) -> None:
        """Count one more element, item or fragment; refuse a file that has too many."""
        self.element_count += 1
        if self.element_count > _MAX_ELEMENTS:
            raise corrupt_error("it has more elements than any study image")

    def read_item_header(self, position: int) -> tuple[int, int]:
        """Return tag and length at `position`, as items and implicit elements store them."""
        if position + 8 > len(self.data):
            raise truncated_error("an element is longer than the rest of the file")
        group, number, length = struct.unpack_from(self._order + "HHL", self.data, position)
        return group << 16 | number, length

    def read_element_header(self, position: int) -> tuple[int, bytes, int, int]:
        """Return tag, VR (empty where implicit), length, and the value's offset."""
        self.count_element()
        tag, length = self.read_item_header(position)
        if not self.encoding.is_explicit or tag in _DELIMITERS:
            return tag, b"", length, position + 8
        vr = bytes(self.data[position + 4 : position + 6])
        if vr in _SHORT_VRS:
            (short,) = struct.unpack_from(self._order + "H", self.data, position + 6)
            return tag, vr, short, position + 8
        if vr not in _LONG_VRS and not (vr.isalpha() and vr.isupper()):
            # Some writers put implicit elements into explicit files.
            return tag, b"", length, position + 8
        if position + 12 > len(self.data):
            raise truncated_error("an element is longer than the rest of the file")
        (long,) = struct.unpack_from(self._order + "L", self.data, position + 8)
        return tag, vr, long, position + 12

    def read_element(self, position: int, depth: int = 0) -> tuple[int, Element, int]:
        """Return tag, element, and the next element's offset."""
        tag, vr, length, start = self.read_element_header(position)
        # UN of undefined length is a sequence in implicit little endian (PS3.5 6.2.2).
        encoding = Encoding(is_explicit=False) if vr == b"UN" else self.encoding
        if length == _UNDEFINED:
            inner = _Reader(self.data, encoding, self.element_count)
            end, after = inner.skip_items(start, depth + 1)
            self.element_count = inner.element_count
        else:
            end = after = start + length
            if end > len(self.data):
                raise truncated_error("an element is longer than the rest of the file")
        return tag, Element(vr.decode("ascii"), self.data[start:end], encoding), after

    def skip_items(self, position: int, depth: int) -> tuple[int, int]:
        """Return the end of a sequence of undefined length, and the next element's offset."""
        if depth > _MAX_DEPTH:
            raise corrupt_error("its sequences are nested too deep")
        while True:
            self.count_element()
            tag, length = self.read_item_header(position)
            if tag == _SEQUENCE_END:
                return position, position + 8
            if tag != _ITEM:
                raise corrupt_error("a sequence contains something that is no item")
            position += 8
            if length != _UNDEFINED:
                position += length
                continue
            while (tag := self.read_item_header(position)[0]) != _ITEM_END:
                _, _, position = self.read_element(position, depth)
            position += 8

    def read_item_elements(self, position: int, length: int) -> tuple[dict[int, Element], int]:
        """Return the elements of one item, and the next item's offset."""
        elements: dict[int, Element] = {}
        end = len(self.data) if length == _UNDEFINED else position + length
        while position < end:
            if length == _UNDEFINED and self.read_item_header(position)[0] == _ITEM_END:
                return elements, position + 8
            tag, element, position = self.read_element(position)
            elements[tag] = element
        return elements, position


def _read_meta(data: memoryview, position: int) -> tuple[int, str]:
    """Return the data set's offset, and the transfer syntax UID (empty where it is absent)."""
    reader = _Reader(data, Encoding())
    syntax = ""
    while position + 8 <= len(data) and bytes(data[position : position + 2]) == b"\x02\x00":
        tag, element, position = reader.read_element(position)
        if tag == TRANSFER_SYNTAX:
            syntax = bytes(element.value).rstrip(b"\0 ").decode("ascii", "replace").strip()
    return position, syntax


def _inflate(deflated: memoryview, limits: Limits) -> memoryview:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(deflated, limits.max_bytes + 1)
    except zlib.error:
        raise corrupt_error("the deflated data set cannot be inflated") from None
    limits.check_file_size(len(data))
    if not inflater.eof:
        raise truncated_error("the deflated data set has no end")
    return memoryview(data)


def _is_vr(octets: bytes) -> bool:
    return octets in _SHORT_VRS or octets in _LONG_VRS


def _detect_bare_encoding(data: memoryview) -> Encoding | None:
    """Return the encoding of a data set without preamble; None for any other bytes."""
    if len(data) < _MIN_BARE_BYTES:
        return None
    start = bytes(data[:8])
    if start[:2] in {b"\x02\x00", b"\x08\x00"} and start[3] == 0 and _is_vr(start[4:6]):
        return Encoding()
    if start[:3] == b"\x00\x08\x00" and _is_vr(start[4:6]):
        return Encoding(is_little_endian=False)
    group, number, length = struct.unpack_from("<HHL", start)
    if group != _IDENTIFYING_GROUP or number > _MAX_FIRST_ELEMENT or length >= _MAX_FIRST_LENGTH:
        return None
    return Encoding(is_explicit=False)


def _detect_encoding(data: memoryview, position: int, syntax: str) -> Encoding:
    """Return the data set's encoding, by its first element because headers can be wrong."""
    is_little_endian = syntax != EXPLICIT_BIG
    if not syntax:
        is_little_endian = (_detect_bare_encoding(data[position:]) or Encoding()).is_little_endian
    is_explicit = _is_vr(bytes(data[position + 4 : position + 6]))
    return Encoding(is_little_endian, is_explicit)


def _name_syntax(encoding: Encoding) -> str:
    if not encoding.is_little_endian:
        return EXPLICIT_BIG
    return EXPLICIT_LITTLE if encoding.is_explicit else IMPLICIT_LITTLE


def _read_data_set(data: memoryview, position: int, syntax: str, encoding: Encoding) -> DicomFile:
    reader = _Reader(data, encoding)
    elements: dict[int, Element] = {}
    while position < len(data):
        tag, _vr, length, start = reader.read_element_header(position)
        if tag == PIXEL_DATA and length == _UNDEFINED:
            return DicomFile(syntax, elements, encoding, fragments=_read_fragments(reader, start))
        tag, element, position = reader.read_element(position)
        if tag == PIXEL_DATA:
            if syntax == DEFLATED:
                _check_trailing(reader, position)
            return DicomFile(syntax, elements, encoding, native=element.value, pixel_vr=element.vr)
        if tag in FLOAT_PIXELS:
            return DicomFile(syntax, elements, encoding, has_float_pixels=True)
        elements[tag] = element
    return DicomFile(syntax, elements, encoding)


def _check_trailing(reader: _Reader, position: int) -> None:
    """Refuse a deflated data set with anything but elements or zeros after the pixel data.

    A deflated data set has no checksum, and nearly all damaged ones inflate to more than was
    deflated.
    """
    end = position + len(bytes(reader.data[position:]).rstrip(b"\0"))
    try:
        while position < end:
            _tag, _element, position = reader.read_element(position)
    except StudyImageRefused:
        raise corrupt_error("the deflated data set inflates to more than it declares") from None


def _read_fragments(reader: _Reader, position: int) -> tuple[memoryview, ...]:
    """Return the fragments of encapsulated pixel data without the offset table (PS3.5 A.4)."""
    fragments: list[memoryview] = []
    while position < len(reader.data):
        reader.count_element()
        tag, length = reader.read_item_header(position)
        if tag == _SEQUENCE_END:
            break
        if tag != _ITEM:
            raise corrupt_error("its pixel data contain something that is no fragment")
        position += 8
        if length > len(reader.data) - position:
            raise truncated_error("an element is longer than the rest of the file")
        fragments.append(reader.data[position : position + length])
        position += length
    # The offset table of one frame is empty or has one entry. Some writers omit it.
    if fragments and len(fragments[0]) in {0, 4}:
        del fragments[0]
    return tuple(fragments)
