"""Values of DICOM elements. A value that cannot be read is treated as absent."""

from __future__ import annotations

import math
import re
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.imaging.dicom import character_sets
from edge_agent.imaging.dicom.parser import Element, read_items

# Longer text is treated as absent, and further numbers are ignored. LUTs are read as arrays.
_MAX_TEXT_BYTES, _MAX_NUMBERS = 65_536, 16
_DATE_DIGITS = 8
_CHARACTER_SET = 0x0008_0005
_BINARY = {"US": "u2", "SS": "i2", "UL": "u4", "SL": "i4", "FL": "f4", "FD": "f8"}
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class DicomHeader:
    """The elements of a data set, or of one item of a sequence, by tag.

    Every method returns an empty value or a default where the element is absent or unreadable.
    """

    def __init__(
        self, elements: dict[int, Element], encodings: tuple[str, ...] = character_sets.DEFAULT
    ) -> None:
        self._elements = elements
        self._encodings = encodings
        if _CHARACTER_SET in self:
            self._encodings = character_sets.find_encodings(self.get_texts(_CHARACTER_SET))

    def __contains__(self, tag: int) -> bool:
        """Return whether the element is present and not empty."""
        return tag in self._elements and len(self._elements[tag].value) > 0

    def get_texts(self, tag: int) -> list[str]:
        """Return all values of a text element, stripped; empty where it is absent."""
        if tag not in self or len(self._elements[tag].value) > _MAX_TEXT_BYTES:
            return []
        text = character_sets.decode_text(bytes(self._elements[tag].value), self._encodings)
        return [part.strip("\0 \t\r\n") for part in text.split("\\")]

    def get_text(self, tag: int) -> str:
        """Return the first value of a text element, stripped; empty where it is absent."""
        return (self.get_texts(tag) or [""])[0]

    def get_decimals(self, tag: int) -> list[float]:
        """Return all values of a DS or IS element that are finite numbers."""
        if tag not in self:
            return []
        kind = _BINARY.get(self._elements[tag].vr)
        if kind is not None:
            values = [float(value) for value in self._get_array(tag, kind)[:_MAX_NUMBERS]]
        else:
            matches = (_DECIMAL.fullmatch(text) for text in self.get_texts(tag))
            values = [float(match.group()) for match in matches if match]
        return [value for value in values if math.isfinite(value)]

    def get_integers(self, tag: int, *, is_signed: bool = False) -> list[int]:
        """Return all values of a US or SS element.

        Args:
            tag: the element.
            is_signed: read it as SS where the encoding is implicit and does not declare the VR.
        """
        if tag not in self:
            return []
        vr = self._elements[tag].vr
        if vr in {"DS", "IS"}:
            return [int(value) for value in self.get_decimals(tag)]
        words = self._get_array(tag, _BINARY.get(vr, "i2" if is_signed else "u2"))
        return [int(value) for value in words[:_MAX_NUMBERS] if math.isfinite(value)]

    def get_integer(self, tag: int, default: int = 0) -> int:
        """Return the first value of a US element, or the default."""
        return (self.get_integers(tag) or [default])[0]

    def get_octets(self, tag: int) -> NDArray[np.uint8]:
        """Return an element's value as bytes, shape (N,); empty where it is absent."""
        return self._get_array(tag, "u1")

    def get_words(self, tag: int) -> NDArray[np.uint16]:
        """Return an element's value as 16-bit words in native byte order, shape (N,)."""
        return self._get_array(tag, "u2").astype(np.uint16, copy=False)

    def _get_array(self, tag: int, kind: str) -> NDArray[Any]:
        if tag not in self:
            return np.empty(0, kind)
        element = self._elements[tag]
        dtype = np.dtype(kind).newbyteorder("<" if element.encoding.is_little_endian else ">")
        whole = len(element.value) // dtype.itemsize * dtype.itemsize
        return np.frombuffer(element.value[:whole], dtype)

    def get_items(self, tag: int) -> list[DicomHeader]:
        """Return the items of a sequence; empty where it is absent."""
        if tag not in self:
            return []
        return [DicomHeader(item, self._encodings) for item in read_items(self._elements[tag])]

    def get_date(self, tag: int) -> date | None:
        """Return a DA value, also in the old form with dots; None where absent or impossible."""
        digits = self.get_text(tag).replace(".", "")
        if not (len(digits) == _DATE_DIGITS and digits.isascii() and digits.isdigit()):
            return None
        try:
            return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
        except ValueError:
            return None
