"""What a JPEG or JPEG-LS codestream declares, read before a decoder sees it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.imaging.errors import corrupt_error, truncated_error

_MARK, _EOI, _SOS = 0xFF, 0xD9, 0xDA
_APP0, _APP1, _APP14 = 0xE0, 0xE1, 0xEE
START, END = b"\xff\xd8", b"\xff\xd9"
JPEG_LS = 0xF7
LOSSLESS = 0xC3
# SOF markers, without DHT (C4), JPG (C8) and DAC (CC) that stand among them.
_FRAMES = (frozenset(range(0xC0, 0xD0)) | {JPEG_LS}) - {0xC4, 0xC8, 0xCC}
_LENGTH_BYTES, _FRAME_BYTES, _COMPONENT_BYTES = 2, 6, 3
# A progressive picture has about ten scans; thousands are an attack on time.
_MAX_SCANS = 200
_MAX_SEGMENTS = 20_000


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """What a JPEG or JPEG-LS codestream declares (ITU-T T.81 B.2, T.87 C.2).

    `process` is the frame's marker: 0xC0 baseline, 0xC1 extended, 0xC2 progressive, 0xC3
    lossless, 0xF7 JPEG-LS. `sampling` has a byte for each component: its horizontal factor times
    16, plus its vertical one. `scan` is where the first scan's coded data start, `end` where
    the picture's end marker stands. `revision` is JFIF's major one, 1 where there is no JFIF.
    `exif` is the EXIF block in TIFF form, empty where there is none.
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


def read_jpeg_header(data: bytes | memoryview) -> JpegHeader:
    """Read the markers up to the first scan and make sure that the picture has an end.

    Raises:
        StudyImageRefused: TRUNCATED or CORRUPT.
    """
    data = bytes(data)
    if data[:2] != START:
        raise corrupt_error("the picture does not begin as JPEG does")
    frame: tuple[int, int, int, int, int] | None = None
    has_adobe_marker = has_jfif_marker = False
    sampling = exif = b""
    revision = 1
    for marker, body, after in _segments(data):
        if marker in _FRAMES:
            if frame is not None or len(body) < _FRAME_BYTES:
                raise corrupt_error("it declares its size twice or not at all")
            frame = (marker, *struct.unpack_from(">BHHB", body))
            sampling = body[_FRAME_BYTES + 1 :: _COMPONENT_BYTES]
        elif marker == _APP0 and body[:4] == b"JFIF":
            has_jfif_marker = True
            revision = int.from_bytes(body[5:6]) or 1
        elif marker == _APP14 and body[:5] == b"Adobe":
            has_adobe_marker = True
        elif marker == _APP1 and body[:6] == b"Exif\0\0":
            exif = exif or body[6:]
        elif marker == _SOS:
            if frame is None:
                raise corrupt_error("a scan comes before the picture's size")
            # Entropy-coded data hold no such pair, so this is the picture's end.
            end = data.find(END, after)
            if end < 0:
                raise truncated_error("the picture has no end")
            if data.count(b"\xff\xda", after) > _MAX_SCANS:
                raise corrupt_error("it has more scans than any radiograph")
            return JpegHeader(
                *frame,
                sampling=sampling,
                scan=after,
                end=end,
                has_adobe_marker=has_adobe_marker,
                has_jfif_marker=has_jfif_marker,
                revision=revision,
                exif=exif,
            )
    raise truncated_error("the picture has no end")


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker, body, and where the next one starts, for each segment before the picture data."""
    position = 2
    for _ in range(_MAX_SEGMENTS):
        if position + 4 > len(data):
            return
        if data[position] != _MARK:
            raise corrupt_error("a marker is missing")
        marker = data[position + 1]
        if marker == _MARK:
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
