"""Resizing and letterboxing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.geometry import Letterbox
from edge_agent.imaging.letterbox import PAD_VALUE, apply_letterbox, compute_inner_size, resize

sides = st.integers(1, 90)


@given(sides, sides, sides, sides)
def test_padding_surrounds_the_picture(rows: int, columns: int, height: int, width: int) -> None:
    box = Letterbox.fit(rows, columns, height, width)
    placed = apply_letterbox(np.full((rows, columns), 200, np.uint8), box)
    assert placed.shape == (height, width)
    assert placed.dtype == np.uint8
    assert placed.flags.c_contiguous
    expected = np.full((height, width), PAD_VALUE, np.uint8)
    bottom, right = box.top + box.inner_height, box.left + box.inner_width
    expected[box.top : bottom, box.left : right] = 200
    np.testing.assert_array_equal(placed, expected)


def test_a_picture_of_inner_size_is_copied_unchanged() -> None:
    picture = np.random.default_rng(3).integers(0, 256, (100, 60)).astype(np.uint8)
    box = Letterbox.fit(1000, 600, 100, 100)
    placed = apply_letterbox(picture, box, pad_value=7)
    np.testing.assert_array_equal(placed[:, 20:80], picture)
    assert set(np.unique(placed[:, :20])) == {7}
    picture[:] = 0
    assert placed[:, 20:80].any()


def test_shrinking_averages() -> None:
    stripes = np.tile(np.array([0, 200], np.uint8), (64, 32))
    assert set(np.unique(resize(stripes, 32, 32))) == {100}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_resizing_keeps_the_type(dtype: type[np.generic]) -> None:
    picture = np.arange(64 * 64).reshape(64, 64).astype(dtype)
    for size in ((20, 30), (64, 64), (100, 100), (32, 100)):
        assert resize(picture, *size).dtype == dtype
        assert resize(picture, *size).shape == size


def test_inner_size() -> None:
    assert compute_inner_size(1000, 500, None) == (1000, 500)
    assert compute_inner_size(1000, 500, (640, 640)) == (640, 320)
