"""The image of a `DetectRequest` where it lies in the message, without a copy.

Left to protobuf, an image of megabytes is copied twice, out of the message and again into Python's
bytes; on a busy core that is a tenth of all the work on an uncompressed radiograph.
See https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from typing import Final

from hilum.v1 import detection_pb2 as pb

_VARINT, _LEN = 0, 2
_FIXED: Final = {1: 8, 5: 4}
"""Bytes by wire type."""
_IMAGE: Final = pb.DetectRequest.IMAGE_FIELD_NUMBER << 3 | _LEN
_MOST_VARINT_BYTES: Final = 10
_MOST_FIELDS: Final = 64
"""A request has a handful. Millions, looked at one by one in Python, would hold up everybody."""


class _Unusual(Exception):
    """Damaged, or not as any writer of today would write it."""


def image_apart(message: bytes) -> tuple[memoryview, bytes] | None:
    """The image, read-only, and the message without it, for protobuf to read.

    None where the message is damaged or unusual: then protobuf is to judge the whole of it.
    """
    view = memoryview(message)
    image, rest, at = view[:0], bytearray(), 0
    try:
        for _ in range(_MOST_FIELDS):
            if at == len(message):
                return image, bytes(rest)
            start, (tag, begin, at) = at, _field(message, at)
            if tag != _IMAGE:
                rest += view[start:at]
            elif message[start] == _IMAGE:
                image = view[begin:at]  # The last one counts, as protobuf has it.
            else:
                return None
    except _Unusual:
        pass
    return None


def _field(message: bytes, at: int) -> tuple[int, int, int]:
    """The tag of the field there, where what it holds begins, and where it ends."""
    tag, at = _varint(message, at)
    kind, size = tag & 7, 0
    if kind == _LEN:
        size, at = _varint(message, at)
    elif kind == _VARINT:
        _, at = _varint(message, at)
    elif kind in _FIXED:
        size = _FIXED[kind]
    else:
        raise _Unusual
    if at + size > len(message):
        raise _Unusual
    return tag, at, at + size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = 0
    for shift, byte in enumerate(message[at : at + _MOST_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:  # noqa: PLR2004  # the bit that says: more to come
            return value, at + shift + 1
    raise _Unusual
