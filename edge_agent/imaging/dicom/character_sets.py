"""Text of DICOM elements in its declared character sets (PS3.3 C.12.1.1.2, PS3.5 6.1).

pydicom's own decoder warns and logs where a value does not fit its declared set. Here, characters
that cannot be decoded are replaced without a warning, because such text is used in reports only and
never reaches the detector.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydicom.charset import CODES_TO_ENCODINGS, python_encoding

DEFAULT: tuple[str, ...] = ("iso8859",)
_ESCAPE = b"\x1b"


def find_encodings(terms: Iterable[str]) -> tuple[str, ...]:
    """Return Python's names of the declared character sets; unknown ones are left out."""
    known = [python_encoding[term] for term in terms if term in python_encoding]
    return tuple(known) or DEFAULT


def decode_text(value: bytes, encodings: tuple[str, ...]) -> str:
    """Return a value's text, with code extensions (ISO 2022 escape sequences) decoded."""
    first, *extended = value.split(_ESCAPE)
    return first.decode(encodings[0], "replace") + "".join(
        _decode_extended(_ESCAPE + part, encodings[0]) for part in extended
    )


def _decode_extended(part: bytes, default: str) -> str:
    for length in (4, 3):
        encoding = CODES_TO_ENCODINGS.get(part[:length])
        if encoding is None:
            continue
        if encoding.startswith("iso2022"):
            return part.decode(encoding, "replace")
        return part[length:].decode(encoding, "replace")
    return part[1:].decode(default, "replace")
