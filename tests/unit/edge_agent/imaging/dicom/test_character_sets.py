"""Code extensions, which the encoders at hand do not write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.charset import python_encoding

from edge_agent.imaging.dicom.character_sets import DEFAULT, decode_text, find_encodings


@pytest.mark.parametrize(
    ("terms", "value", "text"),
    [
        ([""], b"Doe^Jane", "Doe^Jane"),
        ([], b"M\xfcller", "Müller"),
        (
            ["", "ISO 2022 IR 58"],
            b"Wang^XiaoDong=\x1b$)A\xcd\xf5^\x1b$)A\xd0\xa1\xb6\xab",
            "Wang^XiaoDong=王^小东",
        ),
        (["ISO_IR 192"], b"\xff\xfe", "\ufffd\ufffd"),
        (["ISO_IR 100"], b"\x1bZZ\xe9", "ZZé"),
    ],
)
def test_values(terms: list[str], value: bytes, text: str) -> None:
    assert decode_text(value, find_encodings(terms)) == text


def test_unknown_terms_are_left_out() -> None:
    assert find_encodings(["ISO_IR 999", "ISO_IR 101"]) == ("iso8859_2",)
    assert find_encodings(["ISO_IR 999"]) == DEFAULT


@given(st.binary(max_size=60), st.lists(st.sampled_from(sorted(python_encoding)), max_size=3))
def test_any_bytes_can_be_read(value: bytes, terms: list[str]) -> None:
    for part in (value, b"\x1b$B" + value, b"\x1b$)C" + value, b"\x1b$(D" + value):
        assert isinstance(decode_text(part, find_encodings(terms)), str)
