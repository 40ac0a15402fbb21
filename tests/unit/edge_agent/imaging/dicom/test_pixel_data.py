"""Each transfer syntax against a second, independent decoder; and known vendor errors."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gdcm
import imagecodecs
import jpeg_ls
import libjpeg
import numpy as np
import openjpeg
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.encaps import generate_frames
from pydicom.pixels import pixel_array
from rle import rle

from edge_agent.errors import StudyImageRefused
from edge_agent.imaging.dicom import pixel_data
from edge_agent.imaging.dicom.header import DicomHeader
from edge_agent.imaging.dicom.parser import parse_dicom
from edge_agent.imaging.dicom.reader import read_pixel_format
from edge_agent.imaging.limits import Limits
from hilum.codes import ErrorCode
from tests.conftest import pydicom_file
from tests.support.images import studies

Pixels = NDArray[Any]
ROWS, COLUMNS = 64, 47


def stored(data: bytes, min_size: tuple[int, int] | None = None) -> Pixels:
    file = parse_dicom(memoryview(data), Limits())
    return pixel_data.decode_pixel_data(
        file, read_pixel_format(DicomHeader(file.elements)), min_size
    )


def picture(bits: int, *, signed: bool) -> Pixels:
    values = studies.chest(ROWS, COLUMNS, bits)
    if signed:
        return (values.astype(np.int32) - (1 << (bits - 1))).astype(np.int16)
    return values.astype(np.uint8) if bits == 8 else values


def words(values: Pixels, bits: int) -> Pixels:
    """Return two's complement in the low bits, as codestreams without a sign store it."""
    if values.dtype.kind == "u":
        return values
    codes = values.view(np.uint16) & np.uint16((1 << bits) - 1)
    return codes.astype(np.uint8) if bits == 8 else codes


def signed_back(codes: Pixels, bits: int, *, signed: bool) -> Pixels:
    values = codes.astype(np.int64) & ((1 << bits) - 1)
    return np.where(values >> (bits - 1) & 1, values - (1 << bits), values) if signed else values


DEPTHS = [
    pytest.param(bits, signed, id=f"{bits}{'s' if signed else 'u'}")
    for bits in (8, 10, 12, 15, 16)
    for signed in (False, True)
]


@pytest.mark.parametrize(("bits", "signed"), DEPTHS)
@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
)
def test_uncompressed(syntax: str, bits: int, *, signed: bool) -> None:
    original = picture(bits, signed=signed)
    ds = studies.data_set(original, bits=bits)
    if syntax == uid.ExplicitVRBigEndian and ds.BitsAllocated == 16:
        ds.PixelData = original.astype(original.dtype.newbyteorder(">")).tobytes()
    np.testing.assert_array_equal(stored(studies.written(ds, syntax)), original)


def test_bytes_in_big_endian_words_come_in_swapped_pairs() -> None:
    original = picture(8, signed=False)
    ds = studies.data_set(original)
    ds.PixelData = np.frombuffer(original.tobytes(), np.uint16).byteswap().tobytes()
    ds["PixelData"].VR = "OW"
    data = studies.written(ds, uid.ExplicitVRBigEndian)
    np.testing.assert_array_equal(stored(data), original)


@pytest.mark.parametrize(("bits", "signed"), DEPTHS)
def test_rle(bits: int, *, signed: bool) -> None:
    original = picture(bits, signed=signed)
    data = studies.compressed(rle_frame(original), original, uid.RLELossless, bits=bits)
    np.testing.assert_array_equal(stored(data), original)
    second = pixel_array(pydicom.dcmread(io.BytesIO(data)), decoding_plugin="pydicom", raw=True)
    np.testing.assert_array_equal(second, original)


def rle_frame(original: Pixels) -> bytes:
    return bytes(
        rle.encode_frame(original.tobytes(), *original.shape[:2], 1, original.itemsize * 8, "<")
    )


@pytest.mark.parametrize(("bits", "signed"), DEPTHS)
@pytest.mark.parametrize("predictor", [1, 2, 4, 7])
def test_jpeg_lossless(predictor: int, bits: int, *, signed: bool) -> None:
    original = picture(bits, signed=signed)
    stream = imagecodecs.jpeg8_encode(
        words(original, bits), lossless=True, predictor=predictor, bitspersample=bits
    )
    syntax = uid.JPEGLosslessSV1 if predictor == 1 else uid.JPEGLossless
    data = studies.compressed(stream, original, syntax, bits=bits)
    np.testing.assert_array_equal(stored(data), original)
    np.testing.assert_array_equal(by_gdcm(data), original)
    second = signed_back(libjpeg.decode(stream), bits, signed=signed)
    np.testing.assert_array_equal(second, original)


def by_gdcm(data: bytes) -> Pixels:
    return pixel_array(pydicom.dcmread(io.BytesIO(data)), decoding_plugin="gdcm", raw=True)


@pytest.mark.parametrize(("bits", "signed"), DEPTHS)
@pytest.mark.parametrize("near", [0, 3])
def test_jpeg_ls(near: int, bits: int, *, signed: bool) -> None:
    original = picture(bits, signed=signed)
    stream = imagecodecs.jpegls_encode(words(original, bits), near)
    syntax = uid.JPEGLSNearLossless if near else uid.JPEGLSLossless
    decoded = stored(studies.compressed(stream, original, syntax, bits=bits))
    for second in (libjpeg.decode(stream), jpeg_ls.decode(np.frombuffer(stream, np.uint8))):
        np.testing.assert_array_equal(decoded, signed_back(second, bits, signed=signed))
    if not near:
        np.testing.assert_array_equal(decoded, original)


@pytest.mark.parametrize(("bits", "signed"), DEPTHS)
@pytest.mark.parametrize("level", [0, 40], ids=["lossless", "lossy"])
def test_jpeg_2000(level: int, bits: int, *, signed: bool) -> None:
    original = picture(bits, signed=signed)
    stream = jpeg_2000(original, bits, level)
    syntax = uid.JPEG2000 if level else uid.JPEG2000Lossless
    data = studies.compressed(stream, original, syntax, bits=bits)
    decoded = stored(data)
    np.testing.assert_array_equal(decoded, openjpeg.decode(stream))
    np.testing.assert_array_equal(decoded, by_gdcm(data))
    if not level:
        np.testing.assert_array_equal(decoded, original)


def jpeg_2000(original: Pixels, bits: int, level: int = 0, **options: Any) -> bytes:
    return imagecodecs.jpeg2k_encode(
        original,
        level=level,
        codecformat="j2k",
        reversible=not level,
        bitspersample=bits,
        **options,
    )


@pytest.mark.parametrize(("bits", "signed"), DEPTHS)
@pytest.mark.parametrize(
    ("syntax", "options", "tolerance"),
    [
        (uid.HTJ2KLossless, {"reversible": True}, 0),
        (uid.HTJ2KLosslessRPCL, {"reversible": True, "tlm": True, "tilepart": 1}, 0),
        # The standard leaves the rounding of the irreversible transform to the decoder.
        (uid.HTJ2K, {"reversible": False, "level": 0.01}, 1),
    ],
    ids=["lossless", "lossless-rpcl", "lossy"],
)
def test_high_throughput_jpeg_2000(
    syntax: str, options: dict[str, Any], tolerance: int, bits: int, *, signed: bool
) -> None:
    original = picture(bits, signed=signed)
    stream = imagecodecs.htj2k_encode(original, **options)
    decoded = stored(studies.compressed(stream, original, syntax, bits=bits))
    second = openjpeg.decode(stream).astype(np.int32)
    assert np.abs(decoded.astype(np.int32) - second).max() <= tolerance
    if not tolerance:
        np.testing.assert_array_equal(decoded, original)


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit])
def test_jpeg_of_8_bits(syntax: str) -> None:
    original = picture(8, signed=False)
    data = studies.compressed(imagecodecs.jpeg8_encode(original, 90), original, syntax)
    np.testing.assert_array_equal(stored(data), by_gdcm(data))


def test_jpeg_of_12_bits() -> None:
    original = picture(12, signed=False)
    stream = imagecodecs.jpeg8_encode(original, 90, bitspersample=12)
    data = studies.compressed(stream, original, uid.JPEGExtended12Bit, bits=12)
    np.testing.assert_array_equal(stored(data), by_gdcm_alone(data))
    # Another cosine transform rounds differently.
    assert np.abs(stored(data).astype(int) - libjpeg.decode(stream)).max() <= 1


def by_gdcm_alone(data: bytes) -> Pixels:
    """Decode with GDCM directly, because pydicom does not pass 12 bits to it."""
    with io.BytesIO(data) as file:
        ds = pydicom.dcmread(file)
    frame = next(generate_frames(ds.PixelData, number_of_frames=1))
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((ds.Columns, ds.Rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(
        gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2)
    )
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    buffer = image.GetBuffer().encode("utf-8", "surrogateescape")
    return np.frombuffer(buffer, np.uint16).reshape(ds.Rows, ds.Columns)


@pytest.mark.parametrize("kind", ["R", "I"], ids=["lossless", "lossy"])
def test_real_radiograph_equals_its_uncompressed_form(kind: str) -> None:
    compressed = pydicom_file(f"RG1_J2K{kind}.dcm").read_bytes()
    uncompressed = pydicom_file(f"RG1_UNC{kind}.dcm").read_bytes()
    np.testing.assert_array_equal(stored(compressed), stored(uncompressed))


class TestVendorErrors:
    def test_codestream_without_the_sign_that_the_header_declares(self) -> None:
        original = picture(13, signed=True)
        stream = jpeg_2000(words(original, 13), 13)
        data = studies.compressed(stream, original, uid.JPEG2000Lossless, bits=13)
        np.testing.assert_array_equal(stored(data), original)
        # Averages of wrapped values mean nothing, so the resolution is not reduced.
        np.testing.assert_array_equal(stored(data, (16, 12)), original)

    def test_codestream_with_a_sign_that_the_header_lacks(self) -> None:
        original = picture(13, signed=False)
        stream = jpeg_2000(signed_back(original, 13, signed=True).astype(np.int16), 13)
        data = studies.compressed(stream, original, uid.JPEG2000Lossless, bits=13)
        np.testing.assert_array_equal(stored(data), original)

    @pytest.mark.parametrize("bits_stored", [10, 16])
    def test_header_with_other_bits_stored_than_the_codestream(self, bits_stored: int) -> None:
        original = picture(12, signed=False)
        data = studies.compressed(
            jpeg_2000(original, 12), original, uid.JPEG2000Lossless, bits=bits_stored
        )
        np.testing.assert_array_equal(stored(data), original)

    def test_real_file_whose_sign_is_wrong(self) -> None:
        path = get_testdata_file("J2K_pixelrep_mismatch.dcm", download=False)
        assert isinstance(path, str)
        data = Path(path).read_bytes()
        np.testing.assert_array_equal(stored(data), pydicom.dcmread(path).pixel_array)

    def test_codestream_wrapped_as_a_jp2_file(self) -> None:
        original = picture(12, signed=False)
        wrapped = imagecodecs.jpeg2k_encode(original, codecformat="jp2", bitspersample=12)
        data = studies.compressed(wrapped, original, uid.JPEG2000Lossless, bits=12)
        np.testing.assert_array_equal(stored(data), original)

    @pytest.mark.parametrize("overlay", [0x8000, 0x1000])
    @pytest.mark.parametrize("signed", [False, True])
    def test_old_overlays_in_unused_bits(self, overlay: int, *, signed: bool) -> None:
        original = picture(12, signed=signed)
        dirty = words(original, 12).copy()
        dirty[::3] |= np.uint16(overlay)
        ds = studies.data_set(original, bits=12)
        ds.PixelData = dirty.tobytes()
        np.testing.assert_array_equal(stored(studies.written(ds)), original)

    @pytest.mark.parametrize("signed", [False, True])
    def test_values_that_do_not_start_at_the_lowest_bit(self, *, signed: bool) -> None:
        original = picture(12, signed=signed)
        ds = studies.data_set(original, bits=12, HighBit=15)
        ds.PixelData = (words(original, 12) << 4).tobytes()
        np.testing.assert_array_equal(stored(studies.written(ds)), original)


class TestFragments:
    @pytest.mark.parametrize("table", [b"", b"\0\0\0\0", None], ids=["empty", "one", "absent"])
    @pytest.mark.parametrize("sizes", [(), (100,), (8, 100, 2, 300)])
    def test_any_cut_and_any_offset_table(
        self, table: bytes | None, sizes: tuple[int, ...]
    ) -> None:
        original = picture(12, signed=False)
        ds = studies.data_set(original, bits=12)
        ds.PixelData = studies.in_fragments(jpeg_2000(original, 12), sizes, table=table)
        ds["PixelData"].is_undefined_length = True
        data = studies.written(ds, uid.JPEG2000Lossless)
        np.testing.assert_array_equal(stored(data), original)

    def test_missing_sequence_delimiter(self) -> None:
        original = picture(12, signed=False)
        data = studies.compressed(jpeg_2000(original, 12), original, uid.JPEG2000Lossless, bits=12)
        np.testing.assert_array_equal(stored(data[:-8]), original)

    def test_uncompressed_in_fragments(self) -> None:
        original = picture(12, signed=False)
        data = studies.compressed(original.tobytes(), original, "1.2.840.10008.1.2.1.98", bits=12)
        np.testing.assert_array_equal(stored(data), original)


class TestReducedResolution:
    @pytest.mark.parametrize(("bits", "signed"), DEPTHS)
    @pytest.mark.parametrize("shape", [(512, 512), (513, 401), (515, 403), (509, 399)])
    def test_equals_a_smaller_picture(
        self, shape: tuple[int, int], bits: int, *, signed: bool
    ) -> None:
        full = studies.chest(*shape, bits)
        if signed:
            full = (full.astype(np.int32) - (1 << (bits - 1))).astype(np.int16)
        elif bits == 8:
            full = full.astype(np.uint8)
        data = studies.compressed(jpeg_2000(full, bits), full, uid.JPEG2000Lossless, bits=bits)
        reduced = stored(data, (100, 90))
        assert reduced.shape == (-(-shape[0] // 4), -(-shape[1] // 4))
        assert reduced.dtype == full.dtype
        mean = full[: shape[0] // 4 * 4, : shape[1] // 4 * 4].astype(float)
        mean = mean.reshape(shape[0] // 4, 4, shape[1] // 4, 4).mean((1, 3))
        error = reduced[: mean.shape[0], : mean.shape[1]] - mean
        assert abs(error.mean()) < 0.004 * (1 << bits)
        assert error.std() < 0.02 * (1 << bits)

    def test_high_throughput(self) -> None:
        full = studies.chest(512, 401)
        stream = imagecodecs.htj2k_encode(full, reversible=True)
        data = studies.compressed(stream, full, uid.HTJ2KLossless, bits=12)
        assert stored(data, (128, 100)).shape == (128, 101)
        assert stored(data, (129, 100)).shape == (256, 201)

    def test_same_value_everywhere_is_kept(self) -> None:
        full = np.full((256, 255), 1234, np.uint16)
        data = studies.compressed(jpeg_2000(full, 12), full, uid.JPEG2000Lossless, bits=12)
        assert set(np.unique(stored(data, (64, 63)))) == {1234}

    def test_never_smaller_than_the_minimum_size(self) -> None:
        full = studies.chest(256, 256)
        data = studies.compressed(jpeg_2000(full, 12), full, uid.JPEG2000Lossless, bits=12)
        assert stored(data, (129, 129)).shape == (256, 256)


def test_codestream_of_another_size_never_reaches_its_decoder() -> None:
    declared = picture(12, signed=False)
    huge = jpeg_2000(declared, 12)
    at = huge.index(b"\xff\x51") + 6
    size, offsets = (60_000).to_bytes(4, "big") * 2, bytes(8)
    huge = huge[:at] + size + offsets + size + huge[at + 24 :]
    lossless = imagecodecs.jpeg8_encode(declared, lossless=True, bitspersample=12)
    for stream, syntax in (
        (huge, uid.JPEG2000Lossless),
        (huge, uid.HTJ2KLossless),
        (grown(lossless), uid.JPEGLosslessSV1),
        (grown(imagecodecs.jpegls_encode(declared)), uid.JPEGLSLossless),
    ):
        data = studies.compressed(stream, declared, syntax, bits=12)
        with pytest.raises(StudyImageRefused) as refusal:
            stored(data)
        assert refusal.value.code is ErrorCode.CORRUPT
        assert "another size" in refusal.value.message


def grown(stream: bytes) -> bytes:
    """Return the same JPEG with 60,000 declared rows and columns."""
    at = next(i for i in range(len(stream)) if stream[i : i + 2] in {b"\xff\xc3", b"\xff\xf7"}) + 5
    return stream[:at] + (60_000).to_bytes(2, "big") * 2 + stream[at + 4 :]


def test_tiles_without_number_never_reach_the_decoder() -> None:
    full = studies.chest(512, 512)
    stream = bytearray(jpeg_2000(full, 12))
    at = stream.index(b"\xff\x51") + 22
    stream[at : at + 8] = (4).to_bytes(4, "big") * 2
    data = studies.compressed(bytes(stream), full, uid.JPEG2000Lossless, bits=12)
    assert refusal_of(lambda: stored(data)) is ErrorCode.CORRUPT


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGLSLossless, uid.JPEG2000Lossless])
def test_anything_else_in_place_of_a_codestream(syntax: str) -> None:
    data = studies.compressed(b"\xff\xc0" * 200, picture(8, signed=False), syntax)
    assert refusal_of(lambda: stored(data)) is ErrorCode.CORRUPT


def refusal_of(action: Callable[[], object]) -> ErrorCode:
    with pytest.raises(StudyImageRefused) as refusal:
        action()
    return refusal.value.code


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        (uid.MPEG2MPML, "MPEG2"),
        (uid.MPEG4HP41, "MPEG-4"),
        ("1.2.840.10008.1.2.4.94", "JPIP"),
        ("1.2.3.4.5", "not registered"),
    ],
)
def test_unsupported_syntaxes_are_refused_by_name(syntax: str, name: str) -> None:
    with pytest.raises(StudyImageRefused, match=name) as refusal:
        stored(studies.compressed(b"\0" * 100, picture(12, signed=False), syntax, bits=12))
    assert refusal.value.code is ErrorCode.UNSUPPORTED_SYNTAX


@pytest.mark.parametrize("last", [110, 111, 112])
def test_jpeg_xl_is_named(last: int) -> None:
    assert pixel_data.name_transfer_syntax(f"1.2.840.10008.1.2.4.{last}") == "JPEG XL"


def test_compressed_pixels_outside_of_fragments() -> None:
    ds = studies.data_set(picture(8, signed=False))
    file = parse_dicom(memoryview(studies.written(ds)), Limits())
    file = replace(file, syntax=uid.JPEGBaseline8Bit)
    form = read_pixel_format(DicomHeader(file.elements))
    assert refusal_of(lambda: pixel_data.decode_pixel_data(file, form, None)) is ErrorCode.CORRUPT


@pytest.mark.parametrize("missing", [2, 1000])
def test_fewer_pixels_than_declared(missing: int) -> None:
    ds = studies.data_set(picture(12, signed=False), bits=12)
    ds.PixelData = ds.PixelData[:-missing]
    ds["PixelData"].VR = "OW"
    data = studies.written(ds)
    assert refusal_of(lambda: stored(data)) is ErrorCode.TRUNCATED
