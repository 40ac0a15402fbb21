"""Full-resolution grey equals the textbook's for any declarations of the header."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pydicom import Dataset, uid
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from edge_agent.imaging import Limits, read_study
from edge_agent.imaging.letterbox import resize
from tests.conftest import pydicom_file
from tests.support.images import studies

ANY_SIZE = Limits(min_side=1)
SYNTAXES = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)


def textbook(data: bytes) -> NDArray[np.float64]:
    """Return pydicom's modality, VOI and presentation transforms, 0 to 255, bone white."""
    ds = pydicom.dcmread(io.BytesIO(data))
    correct_table_sign(ds)
    # In 32 bits, because pydicom's differences wrap around in the pixels' own 16.
    with np.errstate(over="ignore"):  # A sigmoid may be as steep as a step.
        values = apply_modality_lut(ds.pixel_array.astype(np.int32), ds)
        if "VOILUTSequence" in ds:  # A table's index is a whole number of 16 bits.
            last = ds.VOILUTSequence[0].LUTDescriptor[1] + 0xFFFF
            values = np.minimum(values.astype(np.int32), last)
        shown = apply_voi_lut(values, ds)
    low, high = output_range(ds)
    grey = (shown.astype(np.float64) - low) / (high - low)
    inverse = (
        ds.PhotometricInterpretation == "MONOCHROME1" or ds.get("PresentationLUTShape") == "INVERSE"
    )
    result: NDArray[np.float64] = 255 * (1 - grey if inverse else grey)
    return result


def correct_table_sign(ds: Dataset) -> None:
    """Give the first input of a VOI table the sign that PS3.3 C.11.2.1.1 requires.

    Where the VR is implicit, pydicom reads it with the sign of the stored pixels.
    """
    if "VOILUTSequence" not in ds:
        return
    lowest = -(1 << (ds.BitsStored - 1)) if ds.PixelRepresentation else 0
    lowest = lowest * ds.get("RescaleSlope", 1) + ds.get("RescaleIntercept", 0)
    signed = lowest < 0 and "ModalityLUTSequence" not in ds
    (item,) = ds.VOILUTSequence
    entries, first, bits = item.LUTDescriptor
    first &= 0xFFFF
    first -= 0x10000 if signed and first >= 0x8000 else 0
    item.add_new("LUTDescriptor", "SS" if signed else "US", [entries, first, bits])


def output_range(ds: Dataset) -> tuple[float, float]:
    """Return the range to which pydicom scales its result."""
    if "VOILUTSequence" in ds:
        return 0, (1 << ds.VOILUTSequence[0].LUTDescriptor[2]) - 1
    if "ModalityLUTSequence" in ds:
        return 0, (1 << ds.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    low = -(1 << (ds.BitsStored - 1)) if ds.PixelRepresentation else 0
    high = low + (1 << ds.BitsStored) - 1
    slope, intercept = ds.get("RescaleSlope", 1), ds.get("RescaleIntercept", 0)
    return float(low * slope + intercept), float(high * slope + intercept)


decimals = st.integers(-200_000, 200_000).map(lambda n: f"{n / 100:.2f}")


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    function = draw(st.sampled_from([None, "LINEAR", "LINEAR_EXACT", "SIGMOID"]))
    least = 100 if function in {None, "LINEAR"} else 1
    width = draw(st.integers(least, 5_000_000)) / 100
    centre = draw(decimals)
    several = draw(st.booleans())
    return {
        "WindowCenter": [centre, "1"] if several else centre,
        "WindowWidth": [f"{width:.2f}", "1"] if several else f"{width:.2f}",
        **({"VOILUTFunction": function} if function else {}),
    }


@st.composite
def tables(draw: st.DrawFn, *, depths: list[int], signed: bool) -> Dataset:
    entries = draw(st.integers(2, 700))
    bits = draw(st.sampled_from(depths))
    item = Dataset()
    first = draw(st.integers(-500, 500) if signed else st.integers(0, 500))
    item.LUTDescriptor = [entries, first, bits]
    item["LUTDescriptor"].VR = "SS" if signed else "US"
    values = arrays(np.uint16, entries, elements=st.integers(0, (1 << bits) - 1))
    item.LUTData = draw(values).tolist()
    item["LUTData"].VR = "US"
    if bits == 16:
        item.ModalityLUTType = "US"
    return item


@st.composite
def files(draw: st.DrawFn) -> bytes:
    bits, signed = draw(st.integers(8, 16)), draw(st.booleans())
    low = -(1 << (bits - 1)) if signed else 0
    high = low + (1 << bits) - 1
    dtype = np.dtype(np.int16 if signed else np.uint16)
    near_zero = st.integers(max(low, -700), min(high, 700))
    values = st.integers(low, high) | near_zero | st.sampled_from([low, high])
    pixels = draw(arrays(dtype, (9, 7), elements=values))
    elements: dict[str, Any] = {"WindowCenter": None, "WindowWidth": None}
    modality = draw(st.sampled_from(["none", "rescale", "table"]))
    by_table = draw(st.booleans())
    intercept = draw(st.integers(-1500, 700))
    if modality == "rescale" and by_table:  # A table's index is a whole number.
        elements |= {"RescaleSlope": "1", "RescaleIntercept": str(intercept)}
    elif modality == "rescale":
        elements["RescaleSlope"] = f"{draw(st.integers(1, 500)) / 100:.2f}"
        elements["RescaleIntercept"] = draw(decimals)
    elif modality == "table":
        elements["ModalityLUTSequence"] = [draw(tables(depths=[16], signed=signed))]
    if by_table:
        after = {"none": low, "rescale": low + intercept, "table": 0}[modality] < 0
        elements["VOILUTSequence"] = [draw(tables(depths=[10, 12, 14, 16], signed=after))]
        if draw(st.booleans()):
            elements |= draw(windows())
    else:
        elements |= draw(windows())
    shape = draw(st.sampled_from([None, "IDENTITY", "INVERSE"]))
    elements |= {"PresentationLUTShape": shape} if shape else {}
    elements["PhotometricInterpretation"] = draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"]))
    absent = [name for name, value in elements.items() if value is None]
    ds = studies.data_set(pixels, bits=bits)
    for name in absent:
        delattr(ds, name)
    for name, value in elements.items():
        if value is not None:
            setattr(ds, name, value)
    syntax = draw(st.sampled_from(SYNTAXES))
    if syntax == uid.ExplicitVRBigEndian:
        ds.PixelData = pixels.astype(dtype.newbyteorder(">")).tobytes()
    return studies.written(ds, syntax)


@given(files())
@settings(max_examples=250, deadline=None)
def test_grey_equals_the_textbook(data: bytes) -> None:
    radiograph, _ = read_study(data, limits=ANY_SIZE)
    assert np.abs(radiograph.pixels - textbook(data)).max() <= 1


def of_a_chest(name: str, **elements: Any) -> bytes:
    """Return a file of pydicom-data with a header that declares a chest."""
    ds = pydicom.dcmread(pydicom_file(name))
    for key, value in elements.items():
        setattr(ds, key, value)
    return studies.written(ds)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: pydicom_file("RG1_UNCI.dcm").read_bytes(), id="RG1"),
        pytest.param(
            lambda: of_a_chest("mlut_18.dcm", WindowCenter="32768", WindowWidth="65536"),
            id="modality-table",
        ),
        pytest.param(lambda: of_a_chest("vlut_04.dcm"), id="voi-table"),
        pytest.param(
            lambda: of_a_chest("MR-SIEMENS-DICOM-WithOverlays.dcm", **studies.LIKE_A_CHEST),
            id="overlays",
        ),
    ],
)
def test_real_files_equal_the_textbook(data: Any) -> None:
    content = data()
    radiograph, _ = read_study(content)
    assert np.abs(radiograph.pixels - textbook(content)).max() <= 1


@given(st.integers(8, 16), st.booleans(), st.booleans(), st.data())
@settings(max_examples=60, deadline=None)
def test_shrunk_first_equals_shrunk_last(
    bits: int, signed: bool, inverse: bool, data: st.DataObject
) -> None:
    """Where the window does not clip, the order of shrinking and lookup does not matter."""
    rows, columns = data.draw(st.tuples(st.integers(40, 90), st.integers(40, 90)))
    picture = studies.chest(rows, columns, bits).astype(np.int32)
    pixels = (picture - (1 << (bits - 1))).astype(np.int16) if signed else picture.astype(np.uint16)
    content = studies.dicom(
        pixels, bits=bits, PhotometricInterpretation=f"MONOCHROME{1 if inverse else 2}"
    )
    fit = data.draw(st.tuples(st.integers(16, 40), st.integers(16, 40)))
    small, _ = read_study(content, limits=ANY_SIZE, fit=fit)
    full, _ = read_study(content, limits=ANY_SIZE)
    last = resize(full.pixels, *small.pixels.shape)
    assert np.abs(small.pixels.astype(int) - last).max() <= 1
    assert (small.facts.rows, small.facts.columns) == (rows, columns)
