"""Damaged JPEG data are refused; sound data never are."""

from __future__ import annotations

import base64
import io
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid

from edge_agent.imaging import Limits, read_study
from edge_agent.imaging.codecs import jpeg_markers
from edge_agent.imaging.codecs.jpeg_turbo import decode_with_turbojpeg, is_turbojpeg_supported
from edge_agent.imaging.codecs.jpeg_verified import decode_and_verify_jpeg
from edge_agent.imaging.dicom import pixel_data
from edge_agent.imaging.dicom.header import DicomHeader
from edge_agent.imaging.dicom.parser import parse_dicom
from edge_agent.imaging.dicom.reader import read_pixel_format
from tests.campaign import unseen_damage
from tests.conftest import pydicom_file
from tests.support.images import damaged, studies

COUNT = 12
FILES = damaged.make_compressed_files()
# 24 x 24 noisy pixels whose colours have a third of their columns (cjpeg -sample 3x1).
THIRDS = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wCDEABQADcAPABGADwAMgBQAEYAQQBGAFoAVQBQAF8AeADIAIIAeABuAG4A"
    "eAD1AK8AuQCRAMgBIgD/ATEBLAEdAP8BGAETAUABaAHMAYYBQAFUAbMBWQETARgBkAIhAZUBswHbAeoCAwIIAgMB"
    "NgGBAjUCXQIwAfQCWAHMAfkCAwHv/9sAgxEAVQBaAFoAeABpAHgA6wCCAIIA6wHvAUoBGAFKAe8B7wHvAe8B7wHv"
    "Ae8B7wHvAe8B7wHvAe8B7wHvAe8B7wHvAe8B7wHvAe8B7wHvAe8B7wHvAe8B7wHvAe8B7wHvAe8B7wHvAe8B7wHv"
    "Ae8B7wHvAe8B7wHvAe8B7wHvAe8B7//BABEIABgAGAMBMQACEQEDEQH/xAAWAAEBAQAAAAAAAAAAAAAAAAABAgD/"
    "xAAdEAEAAgIDAQEAAAAAAAAAAAABABEhMQJBUSLh/8QAFAEBAAAAAAAAAAAAAAAAAAAAAP/EABYRAQEBAAAAAAAA"
    "AAAAAAAAAAARQf/aAAwDAQACEQMRAD8AQeK17lqBVuBr3uVeO6O4Eu14mKuZrkIWqZqZaXVsYEyb+pL3uImcfkFf"
    "/9k="
)


def pictures(bits: int) -> st.SearchStrategy[NDArray[np.uint16]]:
    """Draw even, smooth, noisy or half even pixels; 1 to 90 rows and columns; below 1 << bits."""

    def made(rows: int, columns: int, kind: str, seed: int) -> NDArray[np.uint16]:
        dice = np.random.default_rng(seed)
        if kind == "even":
            return np.full((rows, columns), dice.integers(1 << bits), np.uint16)
        noise = dice.integers(1 << bits, size=(rows, columns))
        if kind == "smooth":
            noise = (np.add.outer(np.arange(rows), np.arange(columns)) + noise % 3) % (1 << bits)
        if kind in {"white below", "black below"}:
            noise[rows // 4 :] = (1 << bits) - 1 if kind == "white below" else 0
        return noise.astype(np.uint16)

    sides = st.integers(1, 90)
    kinds = st.sampled_from(["even", "smooth", "noise", "white below", "black below"])
    return st.builds(made, sides, sides, kinds, st.integers(0, 99))


@given(st.integers(2, 16), st.data(), st.integers(1, 7))
@settings(max_examples=150, deadline=None)
def test_sound_lossless_pictures_are_read(bits: int, data: st.DataObject, predictor: int) -> None:
    picture = data.draw(pictures(bits))
    stream = imagecodecs.jpeg8_encode(
        picture.astype(np.uint8) if bits <= 8 else picture,
        lossless=True,
        bitspersample=bits,
        predictor=predictor,
    )
    read = decode_and_verify_jpeg(stream, jpeg_markers.read_jpeg_header(stream))
    np.testing.assert_array_equal(read, picture)


@given(pictures(12), st.integers(20, 100))
@settings(max_examples=80, deadline=None)
def test_sound_pictures_of_12_bits_are_read(picture: NDArray[np.uint16], quality: int) -> None:
    stream = imagecodecs.jpeg8_encode(picture, quality, bitspersample=12)
    read = decode_and_verify_jpeg(stream, jpeg_markers.read_jpeg_header(stream))
    np.testing.assert_array_equal(read, imagecodecs.jpeg8_decode(stream))


@given(pictures(8), st.integers(20, 100), st.integers(0, 3), st.sampled_from(["4:4:4", "4:2:0"]))
@settings(max_examples=80, deadline=None)
def test_sound_cmyk_pictures_are_read(
    picture: NDArray[np.uint16], quality: int, restart: int, sampling: str
) -> None:
    stream = written(
        np.dstack([picture.astype(np.uint8)] * 4),
        mode="CMYK",
        quality=quality,
        restart_marker_blocks=restart,
        subsampling=sampling,
    )
    read = decode_and_verify_jpeg(stream, jpeg_markers.read_jpeg_header(stream))
    np.testing.assert_array_equal(read, imagecodecs.jpeg8_decode(stream))


def written(pixels: NDArray[Any], mode: str | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("quality", [20, 75, 95])
def test_pictures_that_end_in_black_or_white_are_read(quality: int, seed: int) -> None:
    dice = np.random.default_rng(seed)
    picture = np.zeros((256, 256), np.uint16)
    picture[:20, :20] = dice.integers(0, 4096, (20, 20))
    for shown in (picture, 4095 - picture):
        stream = imagecodecs.jpeg8_encode(shown, quality, bitspersample=12)
        read = decode_and_verify_jpeg(stream, jpeg_markers.read_jpeg_header(stream))
        np.testing.assert_array_equal(read, imagecodecs.jpeg8_decode(stream))


def test_a_restart_marker_before_the_end() -> None:
    stream = imagecodecs.jpeg8_encode(damaged.crop_radiograph(), lossless=True, bitspersample=16)
    stream = stream[:-2] + b"\xff\xd7\xff\xd9"
    np.testing.assert_array_equal(
        decode_and_verify_jpeg(stream, jpeg_markers.read_jpeg_header(stream)),
        damaged.crop_radiograph(),
    )


@pytest.mark.parametrize("photometric", ["YBR_FULL", "RGB"])
@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:0"])
def test_colour_that_the_codestream_does_not_declare(photometric: str, sampling: str) -> None:
    """Only the data set declares the colours; last bits of colour do not change the luminance."""
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    stream = written(picture, quality=95, subsampling=sampling)
    assert stream[2:4] == b"\xff\xe0"
    bare = stream[:2] + stream[20:]
    data = studies.compressed(
        bare, picture, uid.JPEGBaseline8Bit, PhotometricInterpretation=photometric
    )
    colours = "RGB" if photometric == "RGB" else "YCBCR"
    expected = imagecodecs.jpeg8_decode(bare, colorspace=colours, outcolorspace="GRAYSCALE")
    file = parse_dicom(memoryview(data), Limits())
    stored = pixel_data.decode_pixel_data(file, read_pixel_format(DicomHeader(file.elements)), None)
    np.testing.assert_array_equal(stored, expected)


@pytest.mark.parametrize("revision", [1, 2])
def test_any_revision_of_jfif(revision: int) -> None:
    stream = bytearray(FILES["jpeg"])
    stream[11] = revision
    np.testing.assert_array_equal(
        read_study(bytes(stream))[0].pixels, read_study(FILES["jpeg"])[0].pixels
    )


def test_odd_sampling_is_read() -> None:
    facts = jpeg_markers.read_jpeg_header(THIRDS)
    assert facts.sampling == b"\x31\x11\x11"
    assert not is_turbojpeg_supported(facts)
    expected = cv2.imdecode(np.frombuffer(THIRDS, np.uint8), cv2.IMREAD_GRAYSCALE)
    read, _ = read_study(THIRDS, limits=Limits(min_side=1))
    assert np.abs(read.pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name", ["JPEG-LL.dcm", "JPGLosslessP14SV1_1s_1f_8b.dcm"])
def test_real_lossless_files_are_read(name: str) -> None:
    ds = pydicom.dcmread(pydicom_file(name))
    (stream,) = pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1)
    read = decode_and_verify_jpeg(stream, jpeg_markers.read_jpeg_header(stream))
    np.testing.assert_array_equal(read, ds.pixel_array)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_smaller_pictures_are_opencvs(factor: int) -> None:
    stream = FILES["jpeg"]
    facts = jpeg_markers.read_jpeg_header(stream)
    assert is_turbojpeg_supported(facts)
    modes = {2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4}
    expected = cv2.imdecode(np.frombuffer(stream, np.uint8), modes.get(factor, 0))
    np.testing.assert_array_equal(decode_with_turbojpeg(stream, facts, factor), expected)


@pytest.mark.parametrize("damage", ["1024 zeroed", "1448 missing", "512 overwritten"])
@pytest.mark.parametrize("name", FILES)
def test_damage_is_refused_or_harmless(name: str, damage: str) -> None:
    counts = unseen_damage.count_outcomes(FILES[name], damage, COUNT, seed=1)
    # Run lengths and predictions may be right by chance.
    assert counts["wrong"] <= (2 if damage == "512 overwritten" else 0)
    assert counts.total() == COUNT
