"""The starter's content check on real images without a header, read by the agent's own code.

Only the radiographs are training images; RG1 and all others are not.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.core.content_check import ContentVerdict
from edge_agent.engines.bundle import Bundle, starter_bundle_path
from edge_agent.engines.content_check import OpenVinoContentChecker
from edge_agent.imaging import read_study
from hilum.codes import ErrorCode, WarningCode
from tests.conftest import pydicom_file

pytestmark = pytest.mark.slow

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(starter_bundle_path())


@pytest.fixture(scope="module")
def checker(bundle: Bundle) -> OpenVinoContentChecker:
    checker = OpenVinoContentChecker.of(bundle)
    assert checker is not None, "the starter has no content check"
    return checker


def check(checker: OpenVinoContentChecker, bundle: Bundle, image: bytes) -> ContentVerdict:
    """Return the verdict on a file, read as for the detector."""
    size = bundle.manifest.input
    radiograph, _ = read_study(image, fit=(size.height, size.width))
    return checker.judge(radiograph.pixels)


def as_png(name: str) -> bytes:
    """Return a DICOM file's image as exported by a viewer: 8 bits, no header."""
    pydicom = pytest.importorskip("pydicom")
    pixels = pytest.importorskip("pydicom.pixels")
    header = pydicom.dcmread(pydicom_file(name))
    grey = header.pixel_array
    if header.PhotometricInterpretation == "PALETTE COLOR":
        grey = pixels.apply_color_lut(grey, header)
    elif header.SamplesPerPixel == 1:
        grey = pixels.apply_voi_lut(grey, header)
    grey = np.asarray(grey, np.float64)
    if header.PhotometricInterpretation == "MONOCHROME1":
        grey = grey.max() - grey
    grey = (grey - grey.min()) / np.ptp(grey) * 255
    return bytes(cv2.imencode(".png", grey.astype(np.uint8))[1])


def png(pixels: Pixels) -> bytes:
    return bytes(cv2.imencode(".png", pixels)[1])


@pytest.mark.radiographs
def test_no_real_frontal_radiograph_is_refused(
    checker: OpenVinoContentChecker, bundle: Bundle, radiographs: list[Path]
) -> None:
    verdicts = {path.name: check(checker, bundle, path.read_bytes()) for path in radiographs}
    assert {name: v.refusal for name, v in verdicts.items() if v.refusal} == {}
    assert {name: v.warnings for name, v in verdicts.items() if v.warnings} == {}


@pytest.mark.parametrize(
    "name",
    [
        "RG3_UNCI.dcm",  # an ankle
        "explicit_VR-UN.dcm",  # CT of an abdomen
        "693_UNCI.dcm",  # CT of a head
        "MR2_UNCI.dcm",  # MR of a shoulder
        "gdcm-US-ALOKA-16.dcm",
        "OBXXXX1A.dcm",
    ],
)
def test_other_images_without_a_header_are_refused(
    checker: OpenVinoContentChecker, bundle: Bundle, name: str
) -> None:
    assert check(checker, bundle, as_png(name)).refusal == ErrorCode.NOT_A_CHEST


@pytest.mark.training
@pytest.mark.parametrize("name", ["bus.jpg", "zidane.jpg"])
def test_photographs_are_refused(
    checker: OpenVinoContentChecker, bundle: Bundle, name: str
) -> None:
    assets = pytest.importorskip("ultralytics.utils").ASSETS
    verdict = check(checker, bundle, (assets / name).read_bytes())
    assert verdict.refusal == ErrorCode.NOT_A_CHEST


def test_rg1_is_a_chest_whose_turn_and_polarity_are_seen(
    checker: OpenVinoContentChecker, bundle: Bundle, rg1: bytes
) -> None:
    size = bundle.manifest.input
    upright = read_study(rg1, fit=(size.height, size.width))[0].pixels
    verdict = checker.judge(upright)
    assert (verdict.refusal, verdict.warnings) == (None, ())
    for quarters in (1, 2, 3):
        turned = np.ascontiguousarray(np.rot90(upright, -quarters))
        seen = check(checker, bundle, png(turned))
        assert seen.refusal == ErrorCode.ROTATED
        assert seen.probabilities.turns[quarters] > 0.5
    assert check(checker, bundle, png(255 - upright)).refusal == ErrorCode.INVERTED


@pytest.mark.radiographs
def test_turned_and_inverted_radiographs_do_not_pass(
    checker: OpenVinoContentChecker, bundle: Bundle, radiographs: list[Path]
) -> None:
    expected = {ErrorCode.ROTATED, ErrorCode.INVERTED, ErrorCode.NOT_A_CHEST}
    missed = []
    for path in radiographs:
        size = bundle.manifest.input
        upright = read_study(path.read_bytes(), fit=(size.height, size.width))[0].pixels
        for treatment, pixels in (
            ("turned", np.ascontiguousarray(np.rot90(upright))),
            ("upside down", np.ascontiguousarray(upright[::-1, ::-1])),
            ("inverted", 255 - upright),
        ):
            verdict = checker.judge(pixels)
            warned = {warning.code for warning in verdict.warnings}
            if verdict.refusal not in expected and not warned & {
                WarningCode.LOOKS_ROTATED,
                WarningCode.LOOKS_INVERTED,
            }:
                missed.append((path.name, treatment))
    assert missed == []
