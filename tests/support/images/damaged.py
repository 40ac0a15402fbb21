"""Truncated and damaged study images, made from sound files of every format."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from rle import rle

from tests.conftest import pydicom_file
from tests.support.images import studies

FIT = (128, 128)
REAL = ("RG1_UNCI.dcm", "RG1_J2KR.dcm", "RG1_J2KI.dcm")


def crop_radiograph(rows: int = 224, columns: int = 192) -> NDArray[np.uint16]:
    """Return stored values from the middle of a real radiograph, u16, 15 bits."""
    whole = pydicom.dcmread(pydicom_file("RG1_UNCI.dcm")).pixel_array
    return np.ascontiguousarray(whole[800 : 800 + rows, 600 : 600 + columns])


def make_compressed_files() -> dict[str, bytes]:
    """Return files of hundreds of kilobytes with compressed pixels, by format."""
    uncompressed = {"implicit", "tables", "tiff"}
    return {
        name: data
        for name, data in write_all_formats(crop_radiograph(900, 900)).items()
        if name not in uncompressed
    }


def make_small_files() -> dict[str, bytes]:
    """Return a small sound file of each format, by name."""
    return write_all_formats(crop_radiograph())


def write_all_formats(words: NDArray[np.uint16]) -> dict[str, bytes]:
    """Return stored values of 15 bits in a file of each format, by name."""
    octets = (words >> 7).astype(np.uint8)
    twelve = words >> 3
    lossless = imagecodecs.jpeg8_encode(words, lossless=True, bitspersample=16)
    run_length = bytes(rle.encode_frame(words.tobytes(), *words.shape, 1, 16, "<"))

    def dicom(
        stream: bytes, syntax: str, like: NDArray[np.generic] = words, bits: int = 15
    ) -> bytes:
        return studies.compressed(
            stream, like, syntax, bits=bits, PhotometricInterpretation="MONOCHROME1"
        )

    return {
        "implicit": studies.written(studies.data_set(words, bits=15), uid.ImplicitVRLittleEndian),
        "deflated": studies.written(
            studies.data_set(words, bits=15), uid.DeflatedExplicitVRLittleEndian
        ),
        "rle": dicom(run_length, uid.RLELossless),
        "jpeg-baseline": dicom(
            imagecodecs.jpeg8_encode(octets, 90), uid.JPEGBaseline8Bit, octets, 8
        ),
        "jpeg-extended": dicom(
            imagecodecs.jpeg8_encode(twelve, 90, bitspersample=12), uid.JPEGExtended12Bit, bits=12
        ),
        "jpeg-lossless": dicom(lossless, uid.JPEGLosslessSV1),
        "jpeg-ls": dicom(imagecodecs.jpegls_encode(words), uid.JPEGLSLossless),
        "jpeg-2000": dicom(
            imagecodecs.jpeg2k_encode(words, codecformat="j2k", reversible=True, bitspersample=15),
            uid.JPEG2000Lossless,
        ),
        "htj2k": dicom(imagecodecs.htj2k_encode(words, reversible=True), uid.HTJ2KLossless),
        "tables": studies.dicom(
            words,
            bits=15,
            VOILUTSequence=[make_lut(1 << 12)],
            ModalityLUTSequence=[make_lut(1 << 14)],
        ),
        "jpeg": write_raster(octets, "JPEG", quality=90),
        "jpeg-progressive": write_raster(octets, "JPEG", quality=90, progressive=True),
        "png-8": write_raster(octets, "PNG"),
        "png-16": write_raster(words, "PNG"),
        "tiff": write_raster(words, "TIFF"),
        "tiff-lzw": write_raster(octets, "TIFF", compression="tiff_lzw"),
        "tiff-jpeg": write_raster(octets, "TIFF", compression="jpeg"),
    }


def make_lut(entries: int) -> pydicom.Dataset:
    """Return a rising 16-bit LUT."""
    item = pydicom.Dataset()
    item.LUTDescriptor = [entries, 0, 16]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = np.linspace(0, 65_535, entries).astype(int).tolist()
    item["LUTData"].VR = "US"
    item.ModalityLUTType = "US"
    return item


def write_raster(pixels: NDArray[np.generic], kind: str, **options: object) -> bytes:
    """Return a raster file that Pillow has written."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def truncate(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield the file cut at random places, and just before its end."""
    dice = random.Random(seed)
    for _ in range(count - 2):
        # Half of the cuts are in the first few kilobytes, where the structure is.
        yield data[: dice.randrange(min(len(data), 4096) if dice.random() < 0.5 else len(data))]
    yield data[:-1]
    yield data[:-2]


def change_bytes(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield the file with one to eight bytes changed."""
    dice = random.Random(seed)
    for _ in range(count):
        changed = bytearray(data)
        within = min(len(data), 4096) if dice.random() < 0.5 else len(data)
        for _ in range(dice.randint(1, 8)):
            changed[dice.randrange(within)] = dice.randrange(256)
        yield bytes(changed)


def apply_damage(data: bytes, damage: str, dice: random.Random) -> bytes:
    """Return a large file with one of `DAMAGES` in its later part, where compressed data are."""
    changed = bytearray(data)
    DAMAGES[damage](changed, dice.randrange(len(data) // 5, len(data) - 1500), dice)
    return bytes(changed)


def _zeroed(data: bytearray, at: int, _dice: random.Random) -> None:
    data[at : at + 1024] = bytes(1024)


def _missing(data: bytearray, at: int, _dice: random.Random) -> None:
    data[at : at + 1448] = b""


def _overwritten(data: bytearray, at: int, dice: random.Random) -> None:
    data[at : at + 512] = dice.randbytes(512)


def _one_bit(data: bytearray, at: int, dice: random.Random) -> None:
    data[at] ^= 1 << dice.randrange(8)


DAMAGES: dict[str, Callable[[bytearray, int, random.Random], None]] = {
    "1024 zeroed": _zeroed,
    "1448 missing": _missing,
    "512 overwritten": _overwritten,
    "one bit": _one_bit,
}
