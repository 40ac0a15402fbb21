"""Truncated and damaged files give a radiograph or a coded refusal, and the next one works."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest

from edge_agent.errors import StudyImageRefused
from edge_agent.imaging import read_study
from hilum.codes import ErrorCode
from tests.campaign import unwritten_memory
from tests.conftest import pydicom_file
from tests.support.images import damaged

pytestmark = pytest.mark.slow

COUNT = 200
SMALL = damaged.make_small_files()


def answers(files: Iterable[bytes], fit: tuple[int, int] | None) -> Counter[str]:
    counted: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in files:
            try:
                radiograph, _ = read_study(data, fit=fit)
            except StudyImageRefused as refused:
                assert isinstance(refused.code, ErrorCode)  # noqa: PT017 - a refusal is as right as a radiograph
                counted[refused.code] += 1
            else:
                assert radiograph.pixels.dtype == np.uint8
                assert radiograph.pixels.ndim == 2
                counted["read"] += 1
    return counted


@pytest.mark.parametrize("name", SMALL)
def test_small_files_of_every_kind(name: str) -> None:
    sound = SMALL[name]
    expected = read_study(sound)[0].pixels
    cut = answers(damaged.truncate(sound, COUNT, seed=1), None)
    assert cut["read"] <= 2  # Only padding is missing.
    assert cut[ErrorCode.TRUNCATED] > COUNT * 0.8
    assert answers(damaged.change_bytes(sound, COUNT, seed=2), None).total() == COUNT
    np.testing.assert_array_equal(read_study(sound)[0].pixels, expected)


@pytest.mark.parametrize("name", damaged.REAL)
def test_real_radiographs(name: str) -> None:
    sound = pydicom_file(name).read_bytes()
    cut = answers(damaged.truncate(sound, COUNT, seed=3), damaged.FIT)
    assert cut["read"] == 0
    assert answers(damaged.change_bytes(sound, COUNT, seed=4), damaged.FIT).total() == COUNT


def test_no_picture_contains_earlier_contents_of_memory() -> None:
    assert unwritten_memory.main(["--count", "20"]) == 0
