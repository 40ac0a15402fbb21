"""Detection of inverted radiographs, without warnings for correct ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_agent.imaging import read_study
from edge_agent.imaging.inversion_check import is_likely_inverted, measure_polarity
from hilum.codes import WarningCode
from tests.support.images import studies

FIT = (256, 256)


def test_real_radiographs_raise_no_warning_and_their_inverses_do(
    radiographs: list[Path], rg1: bytes
) -> None:
    pictures = [read_study(path.read_bytes(), fit=FIT)[0] for path in radiographs]
    pictures.append(read_study(rg1, fit=FIT)[0])
    assert len(pictures) == 62
    for picture in pictures:
        assert WarningCode.LOOKS_INVERTED not in {warning.code for warning in picture.warnings}
    noticed = sum(is_likely_inverted(255 - picture.pixels) for picture in pictures)
    assert noticed >= 60


def test_an_inverted_file_has_a_warning(radiographs: list[Path]) -> None:
    picture = cv2.imread(str(radiographs[0]), cv2.IMREAD_GRAYSCALE)
    data = cv2.imencode(".png", 255 - picture)[1].tobytes()
    codes = {warning.code for warning in read_study(data, fit=FIT)[0].warnings}
    assert WarningCode.LOOKS_INVERTED in codes


def test_a_wrong_photometric_interpretation_has_a_warning() -> None:
    data = studies.dicom(PhotometricInterpretation="MONOCHROME1")
    codes = {warning.code for warning in read_study(data)[0].warnings}
    assert codes == {WarningCode.LOOKS_INVERTED}


@pytest.mark.parametrize("value", [0, 114, 255])
def test_an_even_picture_is_unclear(value: int) -> None:
    assert not is_likely_inverted(np.full((200, 300), value, np.uint8))


def test_noise_is_unclear() -> None:
    noise = np.random.default_rng(5).integers(0, 256, (300, 300)).astype(np.uint8)
    assert abs(measure_polarity(noise)) < 0.3


def test_contrast_does_not_matter() -> None:
    picture = studies.chest(bits=8).astype(np.uint8)
    assert measure_polarity(picture // 4 + 40) == pytest.approx(measure_polarity(picture), abs=0.1)
