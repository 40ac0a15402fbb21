"""Any header gives a radiograph or a coded refusal, and nothing else."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataelem import DataElement
from pydicom.tag import Tag

from edge_agent.errors import StudyImageRefused
from edge_agent.imaging import Limits, read_study
from edge_agent.imaging.dicom.header import DicomHeader
from edge_agent.imaging.dicom.parser import Element, Encoding
from tests.support.images import studies

numbers = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True).map(repr),
    st.sampled_from(["1e308", "-1e308", "1e-320", "0", "-0", "", "abc", "1\\2", "nan", "1e999"]),
)


def is_read(data: bytes) -> bool:
    """Return whether the file was read; any exception but a refusal is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            radiograph, _ = read_study(data, limits=Limits(min_side=1))
        except StudyImageRefused:
            return False
    assert radiograph.pixels.shape == (radiograph.facts.rows, radiograph.facts.columns)
    return True


@given(numbers, numbers, numbers, numbers, st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]))
@settings(max_examples=200, deadline=None)
def test_a_file_with_any_text_in_place_of_numbers_is_read(
    slope: str, intercept: str, centre: str, width: str, function: str
) -> None:
    ds = studies.data_set(studies.chest(20, 20), bits=12, VOILUTFunction=function)
    texts = {
        0x0028_1053: slope, 0x0028_1052: intercept, 0x0028_1050: centre, 0x0028_1051: width,
    }  # fmt: skip
    for tag, text in texts.items():
        # As LO, whose values pydicom writes unchanged.
        ds[tag] = DataElement(Tag(tag), "LO", text)
    assert is_read(studies.written(ds))


fields = st.fixed_dictionaries(
    {},
    optional={
        name: st.integers(0, 65_535) | st.sampled_from([0, 1, 2, 3, 7, 8, 12, 15, 16, 17, 20])
        for name in (
            "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit",
            "PixelRepresentation", "PlanarConfiguration", "PixelPaddingValue",
        )
    },
)  # fmt: skip
photometrics = st.sampled_from(
    [
        "MONOCHROME1",
        "MONOCHROME2",
        "PALETTE COLOR",
        "RGB",
        "YBR_FULL",
        "YBR_FULL_422",
        "YBR_ICT",
        "HSV",
        "",
    ]
)


@given(fields, photometrics)
@settings(max_examples=250, deadline=None)
def test_any_pixel_module_is_read_or_refused(elements: dict[str, Any], photometric: str) -> None:
    ds = studies.data_set(studies.chest(20, 20), bits=12, PhotometricInterpretation=photometric)
    for name, value in elements.items():
        setattr(ds, name, value)
        ds[name].VR = "US"
    ds["PixelData"].VR = "OW"
    is_read(studies.written(ds))


@given(
    st.binary(max_size=64), st.sampled_from(["", "US", "SS", "UL", "FD", "DS", "UN", "SQ", "DA"])
)
@settings(max_examples=500)
def test_any_value_of_any_vr_is_read_as_each_type(value: bytes, vr: str) -> None:
    tag = 0x0028_1050
    header = DicomHeader({tag: Element(vr, memoryview(value), Encoding(is_explicit=bool(vr)))})
    assert isinstance(header.get_text(tag), str)
    assert all(np.isfinite(header.get_decimals(tag)))
    assert all(isinstance(number, int) for number in header.get_integers(tag, is_signed=True))
    assert header.get_date(tag) is None or header.get_date(tag).year > 0
    assert isinstance(header.get_octets(tag).sum(), np.integer)
    try:
        header.get_items(tag)
    except StudyImageRefused as refused:
        assert refused.code  # noqa: PT017 - a refusal is as right as a radiograph
