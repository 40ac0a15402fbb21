"""The header of a JPEG or JPEG-LS codestream, read before a decoder sees the data."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from edge_agent.imaging.errors import corrupt_error, truncated_error

_MARKER_PREFIX, _EOI, _SOS = 0xFF, 0xD9, 0xDA
_APP0, _APP1, _APP14 = 0xE0, 0xE1, 0xEE
START, END = b"\xff\xd8", b"\xff\xd9"
JPEG_LS = 0xF7
LOSSLESS = 0xC3
# SOF markers. DHT (C4), JPG (C8) and DAC (CC) have numbers among them and are none.
_FRAME_MARKERS = (frozenset(range(0xC0, 0xD0)) | {JPEG_LS}) - {0xC4, 0xC8, 0xCC}
_LENGTH_BYTES, _FRAME_BYTES, _COMPONENT_BYTES = 2, 6, 3
# A progressive picture has about ten scans; thousands of them are an attack on decoding time.
_MAX_SCANS = 200
_MAX_SEGMENTS = 20_000


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """The declarations of a JPEG or JPEG-LS codestream (ITU-T T.81 B.2, T.87 C.2).

    Attributes:
        process: the frame's marker: 0xC0 baseline, 0xC1 extended, 0xC2 progressive, 0xC3
            lossless, 0xF7 JPEG-LS.
        precision: bits per sample.
        rows: height in pixels.
        columns: width in pixels.
        components: samples per pixel.
        sampling: a byte for each component: its horizontal factor times 16, plus its vertical one.
        scan: offset of the first scan's coded data.
        end: offset of the picture's end marker.
        has_adobe_marker: an APP14 segment declares the colour space.
        has_jfif_marker: an APP0 segment declares JFIF.
        revision: JFIF's major version; 1 without JFIF.
        exif: the EXIF block in TIFF form; empty without EXIF.
    """

    process: int
    precision: int
    rows: int
    columns: int
    components: int
    sampling: bytes
    scan: int
    end: int
    has_adobe_marker: bool = False
    has_jfif_marker: bool = False
    revision: int = 1
    exif: bytes = b""


class _Frame(NamedTuple):
    """The frame header (T.81 B.2.2)."""

    process: int
    precision: int
    rows: int
    columns: int
    components: int
    sampling: bytes


@dataclass(slots=True)
class _ApplicationData:
    """The application segments that matter to decoding: JFIF, EXIF and Adobe's."""

    has_adobe_marker: bool = False
    has_jfif_marker: bool = False
    revision: int = 1
    exif: bytes = b""

    def add(self, marker: int, body: bytes) -> None:
        """Read one segment; any that is none of the three is ignored."""
        if marker == _APP0 and body[:4] == b"JFIF":
            self.has_jfif_marker = True
            self.revision = int.from_bytes(body[5:6]) or 1
        elif marker == _APP14 and body[:5] == b"Adobe":
            self.has_adobe_marker = True
        elif marker == _APP1 and body[:6] == b"Exif\0\0":
            self.exif = self.exif or body[6:]


def read_jpeg_header(data: bytes | memoryview) -> JpegHeader:
    """Read the segments before the first scan and check that the picture has an end marker.

    Args:
        data: the file or codestream.

    Returns:
        The header.

    Raises:
        StudyImageRefused: TRUNCATED or CORRUPT.
    """
    data = bytes(data)
    if data[:2] != START:
        raise corrupt_error("the picture does not begin as JPEG does")
    frame: _Frame | None = None
    application = _ApplicationData()
    for marker, body, after in _iter_segments(data):
        if marker in _FRAME_MARKERS:
            if frame is not None or len(body) < _FRAME_BYTES:
                raise corrupt_error("it declares its size twice or not at all")
            frame = _parse_frame(marker, body)
        elif marker == _SOS:
            if frame is None:
                raise corrupt_error("a scan comes before the picture's size")
            return JpegHeader(
                *frame,
                scan=after,
                end=_find_end(data, after),
                has_adobe_marker=application.has_adobe_marker,
                has_jfif_marker=application.has_jfif_marker,
                revision=application.revision,
                exif=application.exif,
            )
        else:
            application.add(marker, body)
    raise truncated_error("the picture has no end")


def _parse_frame(marker: int, body: bytes) -> _Frame:
    precision, rows, columns, components = struct.unpack_from(">BHHB", body)
    sampling = body[_FRAME_BYTES + 1 :: _COMPONENT_BYTES]
    return _Frame(marker, precision, rows, columns, components, sampling)


def _find_end(data: bytes, scan: int) -> int:
    """Return the offset of the end marker; refuse data without one, and data of too many scans."""
    # Entropy-coded data never contain this pair of bytes, so the first one is the end marker.
    end = data.find(END, scan)
    if end < 0:
        raise truncated_error("the picture has no end")
    if data.count(b"\xff\xda", scan) > _MAX_SCANS:
        raise corrupt_error("it has more scans than any radiograph")
    return end


def _iter_segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield marker, body and end offset of each segment, until the data end or an EOI comes.

    The caller stops at the first SOS, because entropy-coded data follow it.
    """
    position = 2
    for _ in range(_MAX_SEGMENTS):
        if position + 4 > len(data):
            return
        if data[position] != _MARKER_PREFIX:
            raise corrupt_error("a marker is missing")
        marker = data[position + 1]
        if marker == _MARKER_PREFIX:  # A fill byte (T.81 B.1.1.2).
            position += 1
            continue
        if marker == _EOI:
            return
        (length,) = struct.unpack_from(">H", data, position + 2)
        end = position + 2 + length
        if length < _LENGTH_BYTES:
            raise corrupt_error("a marker is too short")
        if end > len(data):
            return
        yield marker, data[position + 4 : end], end
        position = end
    raise corrupt_error("it has more segments than any picture")
