from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.cli import overlay
from edge_agent.cli.overlay import COLOURS, draw_overlay, encode_png
from edge_agent.core.findings import Box, Finding
from hilum.catalog import CATALOG

GREY = np.full((1000, 800), 128, np.uint8)


def finding(
    index: int = 8, score: float = 0.5, box: tuple[float, ...] = (200, 300, 400, 500)
) -> Finding:
    return Finding(index, score, Box(*box))


def is_colour(image: np.ndarray, index: int) -> np.ndarray:
    return (image == COLOURS[index]).all(axis=2)


def test_the_radiograph_is_unchanged_where_nothing_is_drawn() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (400, 300), np.uint8)
    image = draw_overlay(pixels, [])
    assert image.shape[1:] == (300, 3)
    assert (image[:400] == pixels[..., None]).all()


def test_the_strip_is_below_the_image_and_has_text() -> None:
    image = draw_overlay(GREY, [])
    strip = image[GREY.shape[0] :]
    assert strip.shape[0] > 0
    assert strip.max() == 255
    assert overlay.STRIP_TEXT == "RESEARCH USE ONLY"


def test_a_box_is_drawn_at_its_place_in_its_colour() -> None:
    image = draw_overlay(GREY, [finding()])
    drawn = is_colour(image, 8)
    _rows, columns = np.nonzero(drawn[300:500])
    assert columns.min() == pytest.approx(200, abs=2)
    assert columns.max() == pytest.approx(399, abs=2)
    assert drawn[400, 198:203].any()
    assert not drawn[310:490, 210:390].any(), "nothing is drawn inside the box"


def test_every_class_has_a_colour_unlike_any_grey_and_any_other() -> None:
    assert len(COLOURS) == len(CATALOG)
    lab = cv2.cvtColor(np.float32([COLOURS]) / 255, cv2.COLOR_BGR2LAB)[0]
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    assert chroma.min() > 25
    for one, other in combinations(lab, 2):
        assert np.linalg.norm(one - other) > 10


def test_labels_of_boxes_at_one_place_are_all_legible() -> None:
    stacked = [finding(index, 0.3 + index / 100) for index in range(6)]
    image = draw_overlay(GREY, stacked)
    areas = [np.count_nonzero(is_colour(image, one.index)) for one in stacked]
    assert min(areas) > 1800, "the background of the shortest label, without its letters, is larger"


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.lists(
        st.tuples(st.integers(0, 13), st.floats(0, 1), *[st.floats(-50, 400)] * 4), max_size=5
    ),
)
def test_the_image_keeps_its_size_for_any_boxes(
    size: tuple[int, int], found: list[tuple[int, float, float, float, float, float]]
) -> None:
    pixels = np.full(size, 100, np.uint8)
    image = draw_overlay(pixels, [finding(i, s, tuple(box)) for i, s, *box in found])
    assert image.dtype == np.uint8
    assert image.shape[1:] == (size[1], 3)
    assert image.shape[0] > size[0]


def test_png_is_lossless() -> None:
    image = draw_overlay(GREY, [finding()])
    again = cv2.imdecode(np.frombuffer(encode_png(image), np.uint8), cv2.IMREAD_COLOR)
    assert (again == image).all()
