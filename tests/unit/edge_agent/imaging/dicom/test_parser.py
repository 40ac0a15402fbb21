"""The parser against pydicom, for every file in pydicom and pydicom-data."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import data_store
import numpy as np
import pydicom
import pydicom.data
import pytest
from pydicom import uid

from edge_agent.errors import StudyImageRefused
from edge_agent.imaging.dicom.parser import (
    PIXEL_DATA,
    DicomFile,
    is_dicom,
    parse_dicom,
    read_items,
)
from edge_agent.imaging.limits import Limits
from hilum.codes import ErrorCode
from tests.support.images import studies

FOLDERS = (Path(data_store.__file__).parent / "data", Path(pydicom.data.__file__).parent)
# pydicom reads nothing from this one.
LOST = "emri_small_jpeg_2k_lossless_too_short.dcm"
FILES = sorted(path for folder in FOLDERS for path in folder.rglob("*.dcm") if path.name != LOST)


TRAILING_PADDING = b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0abcd"


def parsed(data: bytes) -> DicomFile:
    return parse_dicom(memoryview(data), Limits())


def refusal(data: bytes, limits: Limits | None = None) -> ErrorCode:
    with pytest.raises(StudyImageRefused) as refused:
        parse_dicom(memoryview(data), limits or Limits())
    return refused.value.code


def test_there_are_files_to_compare() -> None:
    assert len(FILES) > 100


@pytest.mark.filterwarnings("ignore")  # pydicom's, about these files
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_elements_are_those_that_pydicom_reads(path: Path) -> None:
    try:
        ds = pydicom.dcmread(path, force=True)
    except Exception:  # noqa: BLE001 - what pydicom cannot read is no reference
        pytest.skip("pydicom cannot read this one")
    data = path.read_bytes()
    if path.name in DAMAGED:
        assert refusal(data) is ErrorCode.TRUNCATED
        return
    file = parsed(data)
    expected = {
        int(tag): ds.get_item(tag)
        for tag in ds.keys()  # noqa: SIM118 - iterating the data set would interpret its values
        if tag < PIXEL_DATA and tag.group not in {0, 2}
    }
    actual = {tag for tag in file.elements if tag >> 16 not in {0, 2}}
    assert actual == set(expected)
    assert file.encoding.is_little_endian == (ds.original_encoding[1] is not False)
    for tag, element in expected.items():
        raw = element.value
        if isinstance(raw, bytes):
            assert bytes(file.elements[tag].value) == raw
        elif element.VR == "SQ":
            assert len(read_items(file.elements[tag])) == len(raw)


# Truncated files and (the last) one with a stray first byte; pydicom accepts what is there.
DAMAGED = frozenset({"rtplan_truncated.dcm", "MR_truncated.dcm", "no_meta.dcm"})


@pytest.mark.parametrize(
    "syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian]
)
def test_without_preamble(syntax: str) -> None:
    ds = studies.data_set(studies.chest(), bits=12)
    whole = studies.written(ds, syntax)
    meta_length = struct.unpack_from("<L", whole, 140)[0]
    for bare in (whole[132:], whole[144 + meta_length :]):
        assert is_dicom(memoryview(bare))
        file = parsed(bare)
        assert bytes(file.elements[0x0010_0010].value) == b"Doe^Jane"
        assert file.native is not None
        assert file.encoding == parsed(whole).encoding
        assert file.syntax == syntax


@pytest.mark.parametrize(
    ("declared", "written"),
    [
        (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian),
        (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian),
    ],
)
def test_headers_that_declare_a_wrong_encoding(declared: str, written: str) -> None:
    data = studies.written(studies.data_set(studies.chest(), bits=12), written)
    at = data.index(b"\x02\x00\x10\x00UI") + 6
    length = struct.unpack_from("<H", data, at)[0]
    value = declared.encode() + b"\0" * (len(declared) % 2)
    lying = data[:at] + struct.pack("<H", len(value)) + value + data[at + 2 + length :]
    file = parsed(lying)
    assert file.syntax == declared
    assert bytes(file.elements[0x0010_0020].value) == b"4711"


def test_an_unknown_element_of_undefined_length_is_an_implicit_sequence() -> None:
    item = b"\x08\x00\x50\x11\x04\x00\x00\x001.2\0"
    value = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + item + b"\xfe\xff\x0d\xe0\0\0\0\0"
    unknown = b"\x09\x00\x10\x11UN\0\0\xff\xff\xff\xff" + value + b"\xfe\xff\xdd\xe0\0\0\0\0"
    after = b"\x10\x00\x20\x00LO\x04\x004711"
    file = parsed(b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" + unknown + after)
    assert bytes(file.elements[0x0010_0020].value) == b"4711"
    [inner] = read_items(file.elements[0x0009_1110])
    assert bytes(inner[0x0008_1150].value) == b"1.2\0"


class TestHostile:
    def test_nesting_is_bounded(self) -> None:
        deep = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000
        assert refusal(b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" + deep) is ErrorCode.CORRUPT

    def test_number_of_elements_is_bounded(self) -> None:
        many = b"\x09\x00\x10\x00LO\x00\x00" * 300_000
        assert refusal(b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" + many) is ErrorCode.CORRUPT

    def test_sequence_of_something_else(self) -> None:
        odd = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\x11" * 64
        assert refusal(b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" + odd) is ErrorCode.CORRUPT

    @pytest.mark.parametrize("missing", range(1, 12))
    def test_element_longer_than_the_file(self, missing: int) -> None:
        whole = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100\x10\x00\x20\x00LO\x04\x004711"
        assert refusal(whole[:-missing]) is ErrorCode.TRUNCATED

    def test_bomb(self) -> None:
        ds = studies.data_set(studies.chest(), bits=12)
        data = studies.written(ds, uid.DeflatedExplicitVRLittleEndian)
        meta_end = 144 + struct.unpack_from("<L", data, 140)[0]
        deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        bomb = deflater.compress(bytes(50_000_000)) + deflater.flush()
        limits = Limits(max_bytes=10_000_000)
        assert refusal(data[:meta_end] + bomb, limits) is ErrorCode.TOO_LARGE

    @pytest.mark.parametrize("after", [b"", b"\0", bytes(64), TRAILING_PADDING])
    def test_deflated_with_something_after_the_pixels(self, after: bytes) -> None:
        pixels = np.arange(161 * 145).reshape(161, 145).astype(np.uint8)
        data = studies.written(studies.data_set(pixels), uid.DeflatedExplicitVRLittleEndian)
        meta_end = 144 + struct.unpack_from("<L", data, 140)[0]
        inflated = zlib.decompress(data[meta_end:], -zlib.MAX_WBITS) + after
        deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        file = parsed(data[:meta_end] + deflater.compress(inflated) + deflater.flush())
        assert bytes(file.native or b"")[: pixels.size] == pixels.tobytes()

    def test_deflated_with_more_pixels_than_declared(self) -> None:
        data = studies.written(
            studies.data_set(studies.chest(), bits=12), uid.DeflatedExplicitVRLittleEndian
        )
        meta_end = 144 + struct.unpack_from("<L", data, 140)[0]
        inflated = zlib.decompress(data[meta_end:], -zlib.MAX_WBITS) + b"\x12\x07" * 300
        deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        longer = data[:meta_end] + deflater.compress(inflated) + deflater.flush()
        assert refusal(longer) is ErrorCode.CORRUPT

    def test_deflated_without_end(self) -> None:
        ds = studies.data_set(studies.chest(), bits=12)
        data = studies.written(ds, uid.DeflatedExplicitVRLittleEndian)
        assert refusal(data[:-400]) is ErrorCode.TRUNCATED
        assert refusal(data[:-600] + b"\xff" * 600) in {ErrorCode.TRUNCATED, ErrorCode.CORRUPT}


EMPTY_ITEM = b"\xfe\xff\x00\xe0\0\0\0\0"
START = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100"


def test_more_items_than_any_image_has_are_refused() -> None:
    items = EMPTY_ITEM * 300_000
    sequence = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff" + items + b"\xfe\xff\xdd\xe0\0\0\0\0"
    assert refusal(START + sequence) is ErrorCode.CORRUPT
    pixels = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + items
    assert refusal(START + pixels) is ErrorCode.CORRUPT
    known = b"\x08\x00\x15\x11SQ\0\0" + struct.pack("<L", len(items)) + items
    element = parsed(START + known).elements[0x0008_1115]
    with pytest.raises(StudyImageRefused):
        read_items(element)
