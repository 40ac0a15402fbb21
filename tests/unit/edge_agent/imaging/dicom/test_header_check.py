"""Refusals and warnings by header, and their messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, uid

from edge_agent.errors import StudyImageRefused
from edge_agent.imaging import Limits, read_study
from edge_agent.imaging.dicom.header_check import is_chest_name
from hilum.codes import ErrorCode, WarningCode
from tests.conftest import pydicom_file
from tests.support.images import studies

SC = uid.SecondaryCaptureImageStorage
DX = uid.DigitalXRayImageStorageForPresentation


def refusal(data: bytes, **limits: Any) -> StudyImageRefused:
    with pytest.raises(StudyImageRefused) as refused:
        read_study(data, limits=Limits(**limits))
    assert refused.value.message
    assert refused.value.hint
    for word in ("Doe", "Jane", "4711", "498"):
        assert word not in f"{refused.value.message} {refused.value.hint}"
    return refused.value


def code_of(data: bytes, **limits: Any) -> ErrorCode:
    return refusal(data, **limits).code


def warnings_of(data: bytes) -> set[WarningCode]:
    radiograph, _ = read_study(data)
    assert all(warning.message for warning in radiograph.warnings)
    return {warning.code for warning in radiograph.warnings}


def coded(value: str, meaning: str = "") -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return [item]


def test_a_plain_chest_radiograph_raises_no_warning() -> None:
    assert warnings_of(studies.dicom()) == set()


class TestModality:
    @pytest.mark.parametrize(
        ("sop_class", "modality"),
        [
            (uid.ComputedRadiographyImageStorage, "CR"),
            (uid.ComputedRadiographyImageStorage, ""),
            (DX, "DX"),
            (SC, "DX"),
            (SC, "CR"),
            (SC, "RG"),
            (SC, "OT"),
            ("1.2.840.10008.5.1.4.1.1.7.3", "OT"),
        ],
    )
    def test_radiographs_and_captures_of_them(self, sop_class: str, modality: str) -> None:
        data = studies.dicom(SOPClassUID=sop_class, Modality=modality, BurnedInAnnotation="NO")
        assert warnings_of(data) == set()

    @pytest.mark.parametrize(
        ("sop_class", "modality"),
        [
            (uid.CTImageStorage, "CT"),
            (uid.CTImageStorage, "CR"),
            (uid.ComputedRadiographyImageStorage, "MR"),
            (uid.ComputedRadiographyImageStorage, "OT"),
            (SC, "CT"),
            (SC, "US"),
            (uid.DigitalMammographyXRayImageStorageForPresentation, "MG"),
            (uid.XRayAngiographicImageStorage, "XA"),
        ],
    )
    def test_other_examinations(self, sop_class: str, modality: str) -> None:
        data = studies.dicom(SOPClassUID=sop_class, Modality=modality)
        assert code_of(data) is ErrorCode.WRONG_MODALITY

    @pytest.mark.parametrize("name", ["MR2_UNCI.dcm", "US1_J2KR.dcm", "693_J2KR.dcm", "liver.dcm"])
    def test_real_other_examinations(self, name: str) -> None:
        assert code_of(pydicom_file(name).read_bytes()) is ErrorCode.WRONG_MODALITY


class TestIntent:
    def test_for_processing_by_intent(self) -> None:
        data = studies.dicom(SOPClassUID=DX, PresentationIntentType="FOR PROCESSING")
        assert code_of(data) is ErrorCode.FOR_PROCESSING

    def test_for_processing_by_class(self) -> None:
        data = studies.dicom(SOPClassUID=uid.DigitalXRayImageStorageForProcessing, Modality="DX")
        assert code_of(data) is ErrorCode.FOR_PROCESSING

    def test_for_presentation(self) -> None:
        data = studies.dicom(
            SOPClassUID=DX, Modality="DX", PresentationIntentType="FOR PRESENTATION"
        )
        assert warnings_of(data) == set()


class TestBodyPart:
    @pytest.mark.parametrize(
        "body_part",
        ["", "CHEST", "chest", "THORAX", "LUNG", "CHESTABDOMEN", "TORAX", "CHEST PA", "UNKNOWN"],
    )
    def test_chests_by_many_names_and_undeclared_body_parts(self, body_part: str) -> None:
        assert warnings_of(studies.dicom(BodyPartExamined=body_part)) == set()

    def test_chest_with_an_accent(self) -> None:
        data = studies.dicom(BodyPartExamined="TÓRAX", SpecificCharacterSet="ISO_IR 100")
        assert warnings_of(data) == set()

    @pytest.mark.parametrize(
        "body_part",
        [
            *["ANKLE", "EXTREMITY", "TSPINE", "THORACIC SPINE", "ABDOMEN", "SKULL", "RIB", "HAND"],
            *["COLUNA TORACICA", "COLONNA TORACICA", "THORACOLUMBAR"],
        ],
    )
    def test_other_parts(self, body_part: str) -> None:
        data = studies.dicom(BodyPartExamined=body_part)
        assert code_of(data) is ErrorCode.BODY_PART_NOT_CHEST

    @pytest.mark.parametrize(
        ("chest", "spine"),
        [
            ("\u80f8\u90e8", "\u80f8\u690e"),
            (
                "\u0413\u0440\u0443\u0434\u043d\u0430\u044f \u043a\u043b\u0435\u0442\u043a\u0430",
                "\u0413\u0440\u0443\u0434. \u043f\u043e\u0437\u0432\u043e\u043d.",
            ),
            ("Thorax", "Thoracale wervelkolom"),
            ("Thorax de face", "Colonne thoracique"),
        ],
    )
    def test_a_spine_is_no_chest_in_any_language(self, chest: str, spine: str) -> None:
        assert is_chest_name(chest)
        assert not is_chest_name(spine)

    def test_an_abdomen_is_no_chest_by_its_old_code_either(self) -> None:
        region = coded("R-FAB57", "Abdomen and Pelvis")
        data = studies.dicom(BodyPartExamined="ABDOMEN", AnatomicRegionSequence=region)
        assert code_of(data) is ErrorCode.BODY_PART_NOT_CHEST

    def test_a_real_ankle(self) -> None:
        for name in ("RG3_UNCI.dcm", "RG3_J2KR.dcm", "RG3_J2KI.dcm"):
            assert code_of(pydicom_file(name).read_bytes()) is ErrorCode.BODY_PART_NOT_CHEST

    @pytest.mark.parametrize("code", ["51185008", "816094009", "T-D3000", "39607008"])
    def test_coded_regions_of_the_chest(self, code: str) -> None:
        data = studies.dicom(BodyPartExamined="", AnatomicRegionSequence=coded(code))
        assert warnings_of(data) == set()

    def test_coded_region_by_its_meaning(self) -> None:
        data = studies.dicom(BodyPartExamined="", AnatomicRegionSequence=coded("X1", "Chest"))
        assert warnings_of(data) == set()

    def test_coded_regions_elsewhere(self) -> None:
        data = studies.dicom(
            BodyPartExamined="", AnatomicRegionSequence=coded("70258002", "Ankle joint")
        )
        assert code_of(data) is ErrorCode.BODY_PART_NOT_CHEST

    def test_one_statement_for_the_chest_is_enough(self) -> None:
        data = studies.dicom(
            BodyPartExamined="TRUNK", AnatomicRegionSequence=coded("51185008", "Chest")
        )
        assert warnings_of(data) == set()


class TestView:
    @pytest.mark.parametrize(
        ("view", "warning"),
        [
            ("AP", WarningCode.AP_VIEW),
            ("AP SUPINE", WarningCode.AP_VIEW),
            ("LL", WarningCode.LATERAL_VIEW),
            ("RL", WarningCode.LATERAL_VIEW),
            ("LATERAL", WarningCode.LATERAL_VIEW),
            ("", WarningCode.UNKNOWN_VIEW),
            ("RLO", WarningCode.UNKNOWN_VIEW),
            ("SWIMMERS", WarningCode.UNKNOWN_VIEW),
        ],
    )
    def test_positions(self, view: str, warning: WarningCode) -> None:
        assert warnings_of(studies.dicom(ViewPosition=view)) == {warning}

    @pytest.mark.parametrize(
        ("code", "warnings"),
        [
            ("272479007", set()),
            ("399348003", {WarningCode.AP_VIEW}),
            ("399173006", {WarningCode.LATERAL_VIEW}),
            ("R-10206", {WarningCode.AP_VIEW}),
            ("399033003", {WarningCode.UNKNOWN_VIEW}),
        ],
    )
    def test_codes(self, code: str, warnings: set[WarningCode]) -> None:
        data = studies.dicom(ViewPosition="", ViewCodeSequence=coded(code))
        assert warnings_of(data) == warnings

    def test_orientation_from_the_side(self) -> None:
        data = studies.dicom(ViewPosition="", PatientOrientation=["A", "F"])
        assert warnings_of(data) == {WarningCode.LATERAL_VIEW}

    def test_the_view_is_returned(self) -> None:
        assert read_study(studies.dicom(ViewPosition="AP"))[0].facts.view == "AP"


class TestBurnedIn:
    @pytest.mark.parametrize(
        ("elements", "warned"),
        [
            ({"BurnedInAnnotation": "YES"}, True),
            ({"BurnedInAnnotation": "NO"}, False),
            ({}, False),
            ({"SOPClassUID": SC}, True),
            ({"SOPClassUID": SC, "BurnedInAnnotation": "NO"}, False),
        ],
    )
    def test_declared_or_likely(self, elements: dict[str, str], *, warned: bool) -> None:
        expected = {WarningCode.BURNED_IN_POSSIBLE} if warned else set()
        assert warnings_of(studies.dicom(**elements)) == expected


class TestMissingWindow:
    def test_absent(self) -> None:
        data = studies.dicom(WindowCenter=None, WindowWidth=None)
        assert warnings_of(data) == {WarningCode.MISSING_WINDOW}

    @pytest.mark.parametrize(
        ("width", "function"), [("0", "LINEAR"), ("0", "LINEAR_EXACT"), ("-5", "SIGMOID")]
    )
    def test_impossible(self, width: str, function: str) -> None:
        data = studies.dicom(WindowWidth=width, VOILUTFunction=function)
        assert warnings_of(data) == {WarningCode.MISSING_WINDOW}


class TestSize:
    def test_too_large_by_declaration_alone(self) -> None:
        data = studies.dicom(Rows=60_000, Columns=60_000)
        assert code_of(data) is ErrorCode.TOO_LARGE
        assert code_of(studies.dicom(), max_pixels=1000, min_side=1) is ErrorCode.TOO_LARGE

    def test_too_small(self) -> None:
        assert code_of(studies.dicom(studies.chest(127, 300))) is ErrorCode.TOO_SMALL

    def test_limits_can_be_set(self) -> None:
        radiograph, _ = read_study(
            studies.dicom(studies.chest(40, 30), bits=12), limits=Limits(min_side=30)
        )
        assert radiograph.pixels.shape == (40, 30)

    def test_file_of_too_many_bytes(self) -> None:
        assert code_of(studies.dicom(), max_bytes=1000) is ErrorCode.TOO_LARGE

    def test_no_rows(self) -> None:
        assert code_of(studies.dicom(Rows=0)) is ErrorCode.CORRUPT


class TestFrames:
    def test_several(self) -> None:
        assert code_of(studies.dicom(NumberOfFrames="2")) is ErrorCode.MULTI_FRAME

    def test_one(self) -> None:
        assert warnings_of(studies.dicom(NumberOfFrames="1")) == set()


class TestPixels:
    @pytest.mark.parametrize("bits", [1, 12, 32, 64])
    def test_allocated(self, bits: int) -> None:
        assert code_of(studies.dicom(BitsAllocated=bits)) is ErrorCode.UNSUPPORTED_PIXELS

    def test_stored_beyond_allocated(self) -> None:
        assert code_of(studies.dicom(BitsStored=17, HighBit=16)) is ErrorCode.CORRUPT

    def test_fewer_than_eight_bits_are_no_radiograph(self) -> None:
        assert code_of(studies.dicom(BitsStored=4, HighBit=3)) is ErrorCode.UNSUPPORTED_PIXELS

    def test_highest_bit_outside(self) -> None:
        assert code_of(studies.dicom(HighBit=16)) is ErrorCode.CORRUPT

    @pytest.mark.parametrize("name", ["FloatPixelData", "DoubleFloatPixelData"])
    def test_floating_point(self, name: str) -> None:
        ds = studies.data_set(studies.chest(), bits=12)
        del ds.PixelData
        setattr(ds, name, bytes(8 * 144 * 160))
        assert code_of(studies.written(ds)) is ErrorCode.UNSUPPORTED_PIXELS

    def test_unknown_photometric_interpretation(self) -> None:
        data = studies.dicom(PhotometricInterpretation="ARGB")
        assert code_of(data) is ErrorCode.UNSUPPORTED_PIXELS

    def test_colours_that_do_not_fit(self) -> None:
        assert code_of(studies.dicom(SamplesPerPixel=3)) is ErrorCode.CORRUPT


class TestNoPicture:
    def test_a_directory_or_report_is_no_image(self) -> None:
        ds = studies.data_set(studies.chest(), bits=12)
        for name in ("PixelData", "Rows", "Columns", "Modality"):
            delattr(ds, name)
        ds.SOPClassUID = uid.MediaStorageDirectoryStorage
        assert code_of(studies.written(ds)) is ErrorCode.NOT_AN_IMAGE

    def test_an_image_without_its_pixels(self) -> None:
        ds = studies.data_set(studies.chest(), bits=12)
        del ds.PixelData
        assert code_of(studies.written(ds)) is ErrorCode.TRUNCATED


def test_unreadable_values_do_not_prevent_reading() -> None:
    ds = studies.data_set(studies.chest(), bits=12)
    data = studies.written(ds)
    # Same lengths, impossible values.
    for old, new in ((b"Doe^Jane", b"\xff\xfe\x1b$\x1bZZ\\"), (b"4711", b"\0\0\0\0")):
        assert old in data
        data = data.replace(old, new)
    radiograph, context = read_study(data)
    assert radiograph.pixels.shape == studies.SMALL
    assert context.patient_id == ""


def test_signed_colours() -> None:
    pixels = np.zeros((160, 160, 3), np.uint8)
    data = studies.dicom(pixels, PixelRepresentation=1)
    assert code_of(data) is ErrorCode.UNSUPPORTED_PIXELS
