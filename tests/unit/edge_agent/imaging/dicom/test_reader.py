"""Whole files: facts, study context, colour; and no other exception than a refusal."""

from __future__ import annotations

import logging
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import date
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import uid
from pydicom.pixels import convert_color_space, pixel_array
from rle import rle

from edge_agent.core.radiograph import Spacing
from edge_agent.core.study_context import StudyContext
from edge_agent.errors import StudyImageRefused
from edge_agent.imaging import Limits, read_study
from hilum.codes import ErrorCode
from tests.conftest import pydicom_file
from tests.support.images import studies

RGB_OF_SC = {"SOPClassUID": uid.SecondaryCaptureImageStorage, "Modality": "OT"}


def test_facts_and_context_of_a_real_radiograph(rg1: bytes) -> None:
    radiograph, context = read_study(rg1)
    assert (radiograph.facts.rows, radiograph.facts.columns) == (1955, 1841)
    assert radiograph.pixels.shape == (1955, 1841)
    assert radiograph.pixels.dtype == np.uint8
    assert radiograph.pixels.flags.c_contiguous
    assert radiograph.facts.format == "dicom"
    assert radiograph.facts.bits_stored == 15
    assert radiograph.facts.view == "PA"
    assert radiograph.facts.body_part == "CHEST"
    assert radiograph.facts.manufacturer == "Philips Medical Systems"
    assert radiograph.facts.photometric == "MONOCHROME1"
    assert radiograph.facts.transfer_syntax == uid.ExplicitVRLittleEndian
    assert radiograph.warnings == ()
    assert context.patient_id == "9RG1"
    assert context.patient_name == "CompressedSamples^RG1"
    assert context.patient_birth_date == date(1940, 3, 5)
    assert context.patient_sex == "F"
    assert context.study_date == date(2004, 8, 26)
    assert context.study_time == "185059"
    assert context.accession_number == "exam Number"
    assert context.study_id == "9RG1"
    assert context.referring_physician == "ward"
    assert context.institution == "Philips Medical Systems Hamburg"
    assert context.sop_class_uid == uid.ComputedRadiographyImageStorage
    assert context.study_instance_uid == "1.3.6.1.4.1.5962.1.2.9.20040826185059.5457"


@pytest.mark.parametrize("fit", [(512, 512), (640, 480), (1024, 1024), (4096, 2048)])
def test_fitted_size_and_original_size(rg1: bytes, fit: tuple[int, int]) -> None:
    radiograph, _ = read_study(memoryview(rg1), fit=fit)
    scale = min(fit[0] / 1955, fit[1] / 1841)
    assert radiograph.pixels.shape == (round(1955 * scale), round(1841 * scale))
    assert (radiograph.facts.rows, radiograph.facts.columns) == (1955, 1841)


def test_compressed_and_not_look_the_same_at_the_models_input() -> None:
    for kind in ("R", "I"):
        fitted = [
            read_study(pydicom_file(name).read_bytes(), fit=(512, 512))[0].pixels.astype(int)
            for name in (f"RG1_UNC{kind}.dcm", f"RG1_J2K{kind}.dcm")
        ]
        difference = np.abs(fitted[0] - fitted[1])
        assert difference.mean() < 0.5
        assert np.percentile(difference, 99.9) <= 6


class TestContext:
    def test_patient_data_stay_out_of_the_radiograph(self) -> None:
        radiograph, context = read_study(studies.dicom(StudyDescription="Secret", StationName="X9"))
        facts = {k: v for k, v in asdict(radiograph).items() if k != "pixels"}
        for value in ("Doe", "4711", "498", "Secret", "X9"):
            assert value not in repr(facts)
        assert "Doe" not in repr(context)

    @pytest.mark.parametrize("value", ["20230230", "2023", "abc", "", "99999999"])
    def test_impossible_dates_are_treated_as_absent(self, value: str) -> None:
        _, context = read_study(studies.dicom(PatientBirthDate=value, PatientAge="045Y"))
        assert context.patient_birth_date is None
        assert context.patient_age == "045Y"

    def test_old_date_format(self) -> None:
        ds = studies.data_set(
            studies.chest(), bits=12, StudyDate="19991231", PatientID="1999.12.31"
        )
        data = studies.written(ds).replace(b"DA\x08\x0019991231", b"DA\x0a\x001999.12.31")
        assert read_study(data)[1].study_date == date(1999, 12, 31)

    @pytest.mark.parametrize(
        ("charset", "name"),
        [
            (None, "Doe^Jane"),
            ("ISO_IR 100", "Müller^Jörg"),
            ("ISO_IR 192", "山田^太郎"),
            ("ISO_IR 144", "Москва"),
            ("GB18030", "王^小东"),
            (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
            (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
            (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎"),
            (["ISO 2022 IR 100", "ISO 2022 IR 144"], "Buc^Jérôme=Москва"),
        ],
    )
    def test_names_in_their_character_sets(self, charset: Any, name: str) -> None:
        ds = studies.data_set(studies.chest(), bits=12)
        if charset:
            ds.SpecificCharacterSet = charset
        ds.PatientName = name
        assert read_study(studies.written(ds))[1].patient_name == name

    @pytest.mark.parametrize("charset", ["ISO_IR 999", "UTF-8", "\\\\\\"])
    def test_unknown_character_sets(self, charset: str) -> None:
        data = studies.dicom(SpecificCharacterSet="ISO_IR 100", PatientName="Müller")
        data = data.replace(b"ISO_IR 100", charset.encode().ljust(10))
        assert read_study(data)[1].patient_name.startswith("M")

    def test_without_any_identifiers(self) -> None:
        ds = studies.data_set(studies.chest(), bits=12)
        keep = {"Rows", "Columns", "PixelData", "Modality", "WindowCenter", "WindowWidth"}
        for element in list(ds):
            if element.tag.group in {0x08, 0x10, 0x18, 0x20} and element.keyword not in keep:
                del ds[element.tag]
        ds.Modality = "DX"
        radiograph, context = read_study(studies.written(ds))
        assert context == StudyContext()
        assert radiograph.facts.view == ""


class TestSpacing:
    def test_both_kinds(self) -> None:
        assert spacing(PixelSpacing=["0.14", "0.15"]) == Spacing(0.14, 0.15)
        assert spacing(ImagerPixelSpacing=["0.2", "0.2"]) == Spacing(0.2, 0.2)

    @pytest.mark.parametrize("value", [["0", "0"], ["0.1"], ["-1", "1"], []])
    def test_impossible_ones(self, value: list[str]) -> None:
        assert spacing(PixelSpacing=value) is None


def spacing(**elements: Any) -> Spacing | None:
    return read_study(studies.dicom(**elements))[0].facts.spacing


def test_laterality() -> None:
    assert read_study(studies.dicom(ImageLaterality="R"))[0].facts.laterality == "R"
    assert read_study(studies.dicom(Laterality="L"))[0].facts.laterality == "L"


class TestColour:
    """Screen captures and film scans, against pydicom's own conversions."""

    picture = np.dstack(
        [studies.chest(bits=8), studies.chest(bits=8) // 2, 255 - studies.chest(bits=8)]
    ).astype(np.uint8)

    def shown(self, data: bytes) -> NDArray[np.int32]:
        return read_study(data)[0].pixels.astype(np.int32)

    def luminance(self, rgb: NDArray[Any]) -> NDArray[Any]:
        result: NDArray[Any] = rgb.astype(float) @ [0.299, 0.587, 0.114]
        return result

    @pytest.mark.parametrize("planar", [0, 1])
    def test_rgb(self, planar: int) -> None:
        ds = studies.data_set(self.picture, PlanarConfiguration=planar, **RGB_OF_SC)
        if planar:
            ds.PixelData = self.picture.transpose(2, 0, 1).tobytes()
        expected = self.luminance(self.picture)
        assert np.abs(self.shown(studies.written(ds)) - expected).max() <= 1

    def test_rgb_of_sixteen_bits(self) -> None:
        deep = self.picture.astype(np.uint16) * 257
        data = studies.dicom(deep, **RGB_OF_SC)
        assert np.abs(self.shown(data) - self.luminance(self.picture)).max() <= 1

    def test_ybr_full(self) -> None:
        ybr = convert_color_space(self.picture, "RGB", "YBR_FULL")
        data = studies.dicom(ybr, PhotometricInterpretation="YBR_FULL", **RGB_OF_SC)
        np.testing.assert_array_equal(self.shown(data), ybr[..., 0])

    def test_ybr_subsampled(self) -> None:
        ybr = convert_color_space(self.picture, "RGB", "YBR_FULL")
        pairs = np.empty((*ybr.shape[:1], ybr.shape[1] // 2, 4), np.uint8)
        pairs[..., 0], pairs[..., 1] = ybr[:, ::2, 0], ybr[:, 1::2, 0]
        pairs[..., 2:] = ybr[:, ::2, 1:]
        ds = studies.data_set(ybr, PhotometricInterpretation="YBR_FULL_422", **RGB_OF_SC)
        ds.PixelData = pairs.tobytes()
        np.testing.assert_array_equal(self.shown(studies.written(ds)), ybr[..., 0])

    @pytest.mark.parametrize("photometric", ["YBR_FULL_422", "RGB"])
    def test_jpeg(self, photometric: str) -> None:
        space = "RGB" if photometric == "RGB" else "YCBCR"
        stream = imagecodecs.jpeg8_encode(
            self.picture, 98, colorspace="RGB", outcolorspace=space, subsampling="444"
        )
        data = studies.compressed(
            stream, self.picture, uid.JPEGBaseline8Bit, PhotometricInterpretation=photometric,
            **RGB_OF_SC,
        )  # fmt: skip
        assert np.abs(self.shown(data) - self.luminance(self.picture)).max() <= 8

    @pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.HTJ2KLossless])
    def test_jpeg_2000(self, syntax: str) -> None:
        encode = {
            uid.JPEG2000Lossless: lambda p: imagecodecs.jpeg2k_encode(
                p, codecformat="j2k", reversible=True, mct=True
            ),
            uid.HTJ2KLossless: lambda p: imagecodecs.htj2k_encode(p, reversible=True),
        }[syntax]
        data = studies.compressed(
            encode(self.picture), self.picture, syntax, PhotometricInterpretation="YBR_RCT",
            **RGB_OF_SC,
        )  # fmt: skip
        assert np.abs(self.shown(data) - self.luminance(self.picture)).max() <= 1

    @pytest.mark.parametrize("syntax", [uid.JPEGLossless, uid.JPEGLSLossless, uid.RLELossless])
    def test_lossless_rgb(self, syntax: str) -> None:
        encode = {
            uid.JPEGLossless: lambda p: imagecodecs.jpeg8_encode(p, lossless=True, bitspersample=8),
            uid.JPEGLSLossless: imagecodecs.jpegls_encode,
            uid.RLELossless: lambda p: bytes(
                rle.encode_frame(p.tobytes(), *p.shape[:2], 3, 8, "<")
            ),
        }[syntax]
        data = studies.compressed(encode(self.picture), self.picture, syntax, **RGB_OF_SC)
        assert np.abs(self.shown(data) - self.luminance(self.picture)).max() <= 1

    @pytest.mark.parametrize(
        "name",
        [
            "SC_rgb_dcmtk_ebcr_dcmd.dcm",
            "SC_rgb_dcmtk_ebcyn1_dcmd.dcm",
            "SC_rgb_expb_16bit.dcm",
            "SC_rgb_16bit.dcm",
            "SC_ybr_full_uncompressed.dcm",
            "SC_rgb_gdcm2k_uncompressed.dcm",
        ],
    )
    def test_real_files(self, name: str) -> None:
        ds = pydicom.dcmread(pydicom_file(name))
        expected = pixel_array(ds, raw=False).astype(float)
        if ds.BitsAllocated == 16:
            expected /= 257
        ds.Modality = "OT"
        radiograph, _ = read_study(written_as_read(ds), limits=Limits(min_side=1))
        assert np.abs(radiograph.pixels - self.luminance(expected)).max() <= 2

    def test_palette(self) -> None:
        ds = pydicom.dcmread(pydicom_file("OT-PAL-8-face.dcm"), force=True)
        ds.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
        rgb = pydicom.pixels.apply_color_lut(ds.pixel_array, ds).astype(float) / 257
        ds.SOPClassUID, ds.Modality = uid.SecondaryCaptureImageStorage, "OT"
        ds.BodyPartExamined = "CHEST"
        shown = self.shown(written_as_read(ds))
        assert np.abs(shown - self.luminance(rgb)).max() <= 2


def written_as_read(ds: pydicom.Dataset) -> bytes:
    return studies.written(ds, ds.file_meta.TransferSyntaxUID)


class TestNothingElseEscapes:
    @pytest.mark.parametrize("name", ["JPEG2000_UNC.dcm", "bad_sequence.dcm", "explicit_VR-UN.dcm"])
    def test_no_warning_and_no_log(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
            warnings.simplefilter("error")
            with pytest.raises(StudyImageRefused):
                read_study(pydicom_file(name).read_bytes())
        assert not caplog.records

    def test_refusals_cross_process_borders(self) -> None:
        with pytest.raises(StudyImageRefused) as refused:
            read_study(studies.dicom(Modality="MR"))
        copy = pickle.loads(pickle.dumps(refused.value))  # noqa: S301 - pickled in this line
        assert (copy.code, copy.hint) == (refused.value.code, refused.value.hint)

    def test_from_several_threads_at_once(self) -> None:
        files = [studies.dicom(studies.chest() // n, bits=12) for n in range(1, 9)]
        alone = [read_study(data)[0].pixels for data in files]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda data: read_study(data)[0].pixels, files * 4))
        for index, pixels in enumerate(together):
            np.testing.assert_array_equal(pixels, alone[index % len(files)])

    def test_the_caller_may_drop_the_bytes(self) -> None:
        data = bytearray(studies.dicom())
        radiograph, _ = read_study(memoryview(data))
        before = radiograph.pixels.copy()
        data[:] = bytes(len(data))
        np.testing.assert_array_equal(radiograph.pixels, before)

    def test_what_is_not_even_bytes(self) -> None:
        with pytest.raises(StudyImageRefused) as refused:
            read_study("text")  # type: ignore[arg-type]
        assert refused.value.code is ErrorCode.CORRUPT
