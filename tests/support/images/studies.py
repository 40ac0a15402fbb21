"""Study images for tests: DICOM files that pydicom writes around given pixels."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, itemize_fragment
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

SMALL = (160, 144)
UNCOMPRESSED = frozenset(
    {
        DeflatedExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
    }
)


def chest(rows: int = SMALL[0], columns: int = SMALL[1], bits: int = 12) -> NDArray[np.uint16]:
    """Return stored values of a schematic chest: dark lungs, bright spine and abdomen, noise."""
    y, x = np.mgrid[0 : 1 : rows * 1j, 0 : 1 : columns * 1j]
    picture = 0.55 + 0.15 * y
    for centre in (0.28, 0.72):
        picture -= 0.4 * np.exp(-(((x - centre) / 0.14) ** 2) - ((y - 0.45) / 0.24) ** 2)
    picture += 0.25 * np.exp(-(((x - 0.5) / 0.07) ** 2)) * (y > 0.1)
    noise = np.random.default_rng(7).normal(0, 0.01, picture.shape)
    return (np.clip(picture + noise, 0, 1) * ((1 << bits) - 1)).astype(np.uint16)


def data_set(pixels: NDArray[Any], *, bits: int | None = None, **elements: Any) -> Dataset:
    """Return the data set of a PA chest radiograph; `elements` replace or, where None, remove."""
    signed = pixels.dtype.kind == "i"
    bits = bits or pixels.dtype.itemsize * 8
    ds = Dataset()
    ds.SOPClassUID = ComputedRadiographyImageStorage
    ds.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    ds.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.2"
    ds.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.3"
    ds.PatientName = "Doe^Jane"
    ds.PatientID = "4711"
    ds.Modality = "CR"
    ds.BodyPartExamined = "CHEST"
    ds.ViewPosition = "PA"
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel = 1 if pixels.ndim == 2 else pixels.shape[2]
    ds.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    else:
        half = 0 if signed else 1 << (bits - 1)
        ds.WindowCenter, ds.WindowWidth = half, 1 << bits
    ds.BitsAllocated = pixels.dtype.itemsize * 8
    ds.BitsStored, ds.HighBit = bits, bits - 1
    ds.PixelRepresentation = int(signed)
    ds.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 else "OW"
    with pydicom.config.disable_value_validation():  # Some devices write invalid values.
        for name, value in elements.items():
            if name in ds:
                delattr(ds, name)
            if value is not None:
                setattr(ds, name, value)
    return ds


def written(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Return the data set as a file."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", "1.2")
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2.3")
    with pydicom.config.disable_value_validation():
        return _saved(ds)


def _saved(ds: Dataset) -> bytes:
    file = io.BytesIO()
    if ds.file_meta.TransferSyntaxUID in UNCOMPRESSED:
        ds.save_as(file, enforce_file_format=True)
    else:  # pydicom writes an unknown syntax only with an explicit encoding.
        pydicom.dcmwrite(file, ds, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return file.getvalue()


def dicom(pixels: NDArray[Any] | None = None, *, bits: int | None = None, **elements: Any) -> bytes:
    """Return an uncompressed file; of a small 12-bit chest where no pixels are given."""
    if pixels is None:
        pixels, bits = chest(), bits or 12
    return written(data_set(pixels, bits=bits, **elements))


def compressed(
    codestream: bytes, like: NDArray[Any], syntax: str, *, bits: int | None = None, **elements: Any
) -> bytes:
    """Return a file with a codestream and a header that describes `like`."""
    ds = data_set(like, bits=bits, **elements)
    ds.PixelData = encapsulate([codestream])
    ds["PixelData"].is_undefined_length = True
    ds["PixelData"].VR = "OB"
    return written(ds, syntax)


def in_fragments(codestream: bytes, sizes: Iterable[int], *, table: bytes | None = b"") -> bytes:
    """Return encapsulated pixel data in fragments of these sizes and the rest; None: no table."""
    parts, at = [], 0
    for size in sizes:
        parts.append(codestream[at : at + size])
        at += size
    parts.append(codestream[at:])
    items = b"".join(itemize_fragment(part + b"\0" * (len(part) % 2)) for part in parts)
    if table is not None:
        items = b"\xfe\xff\x00\xe0" + len(table).to_bytes(4, "little") + table + items
    return items + b"\xfe\xff\xdd\xe0\0\0\0\0"


LIKE_A_CHEST: dict[str, str] = {
    "SOPClassUID": ComputedRadiographyImageStorage,
    "Modality": "CR",
    "BodyPartExamined": "CHEST",
    "ViewPosition": "PA",
}
"""Elements that make the file of another examination a chest radiograph by its header."""
