"""The content check's engine: its verdicts, its input and its errors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edge_agent.engines.bundle import Bundle
from edge_agent.engines.content_check import OpenVinoContentChecker, shrink_to_input
from edge_agent.errors import BundleInvalid, EngineFailed
from hilum.codes import ErrorCode, WarningCode
from hilum.manifest import InputSpec
from tests.support.engines import bundles
from tests.support.engines.content_checks import (
    SPEC,
    bundle_with_content_check,
    make_picture,
    transparent_content_check,
)


@pytest.fixture
def checker() -> OpenVinoContentChecker:
    return OpenVinoContentChecker(*transparent_content_check(), SPEC)


def test_a_picture_gets_its_verdict(checker: OpenVinoContentChecker) -> None:
    assert checker.judge(make_picture()).refusal is None
    assert checker.judge(make_picture(other=255)).refusal == ErrorCode.NOT_A_CHEST
    assert checker.judge(make_picture(turned=250)).refusal == ErrorCode.ROTATED
    warned = checker.judge(make_picture(lateral=200))
    assert [warning.code for warning in warned.warnings] == [WarningCode.LATERAL_VIEW]
    assert warned.probabilities.lateral == pytest.approx(200 / 255, abs=1e-4)


def test_each_thread_gets_its_own_verdicts(checker: OpenVinoContentChecker) -> None:
    greys = [k % 251 for k in range(400)]
    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(lambda grey: checker.judge(make_picture(inverted=grey)), greys))
    inverted = [verdict.probabilities.inverted * 250 for verdict in verdicts]
    assert inverted == pytest.approx(greys, abs=0.01)


@pytest.mark.parametrize("shape", [(40, 90), (416, 380), (7, 500), (32, 32), (1, 1)])
def test_any_size_is_letterboxed(shape: tuple[int, int]) -> None:
    spec = InputSpec(height=32, width=64, pad_value=9)
    placed = shrink_to_input(np.full(shape, 200, np.uint8), spec)
    rows, columns = np.nonzero(placed == 200)
    assert placed.shape == (32, 64)
    assert set(np.unique(placed)) <= {9, 200}
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert height == 32 or width == 64
    assert abs(np.log((height / width) / (shape[0] / shape[1]))) < np.log(2) or min(shape) < 10


def test_the_detectors_padding_hardly_changes_the_input() -> None:
    spec = InputSpec(height=64, width=64)
    rng = np.random.default_rng(1)
    picture = np.sort(rng.integers(0, 256, (320, 256), np.uint8), axis=0)
    padded = shrink_to_input(picture, InputSpec(height=416, width=416))
    difference = np.abs(
        shrink_to_input(padded, spec).astype(int) - shrink_to_input(picture, spec).astype(int)
    )
    assert np.mean(difference) < 6


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((4, 4), np.uint16), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4), np.uint8)],
)
def test_pixels_that_are_no_grey_picture_are_an_error(
    checker: OpenVinoContentChecker, pixels: np.ndarray
) -> None:
    with pytest.raises(EngineFailed, match=r"takes u8 \(H, W\)"):
        checker.judge(pixels)


def test_outputs_that_are_no_probabilities_are_an_error(checker: OpenVinoContentChecker) -> None:
    with pytest.raises(EngineFailed, match="outside of 0 to 1"):
        checker.judge(make_picture(inverted=255))


def test_a_closed_content_check_is_an_error(checker: OpenVinoContentChecker) -> None:
    checker.close()
    checker.close()
    with pytest.raises(EngineFailed, match="closed"):
        checker.judge(make_picture())


def test_a_network_of_another_form_is_refused() -> None:
    with pytest.raises(BundleInvalid, match="the content check takes"):
        OpenVinoContentChecker(*transparent_content_check(outputs=9), SPEC)
    with pytest.raises(EngineFailed, match="could not load the content check"):
        OpenVinoContentChecker(b"<no xml", b"", SPEC)


def test_a_bundle_may_have_a_content_check(tmp_path: Path) -> None:
    checker = OpenVinoContentChecker.of(
        Bundle.open(bundle_with_content_check(tmp_path / "a.bundle"))
    )
    assert checker is not None
    assert checker.judge(make_picture(other=255)).refusal == ErrorCode.NOT_A_CHEST
    without = bundles.pack(tmp_path / "b.bundle", bundles.contents())
    assert OpenVinoContentChecker.of(Bundle.open(without)) is None
