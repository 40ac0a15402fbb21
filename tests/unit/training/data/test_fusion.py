"""Readers' boxes become findings that know how many agreed; agreement is what it is defined as."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilum.catalog import BY_SLUG
from tests.support.training.annotated import table
from training.data import agreement, fusion, vindr
from training.data.box_overlap import pairwise_iou

NODULE = BY_SLUG["nodule_mass"].index


def fused(tmp_path: Path, rows: str) -> list[tuple[str, float, int]]:
    found = fusion.fuse_boxes(vindr.read_annotations(table(tmp_path, rows)).rows)
    return list(zip(found["class_name"], found["weight"], found["readers"], strict=True))


def test_agreeing_readers_become_one_box_in_the_middle(tmp_path: Path) -> None:
    rows = "a,ILD,5,R1,100,100,200,200\na,ILD,5,R2,110,100,210,200\na,No finding,14,R3,,,,\n"
    found = fusion.fuse_boxes(vindr.read_annotations(table(tmp_path, rows)).rows)
    assert found[["x_min", "y_min", "x_max", "y_max"]].to_numpy().tolist() == [[105, 100, 205, 200]]
    assert found["readers"].tolist() == [2]
    assert found["weight"].tolist() == [pytest.approx(2 / 3, abs=1e-4)]


def test_apart_or_of_another_class_they_stay_apart(tmp_path: Path) -> None:
    rows = "a,ILD,5,R1,0,0,100,100\na,ILD,5,R2,200,200,300,300\na,Infiltration,6,R2,0,0,100,100\n"
    assert fused(tmp_path, rows) == [("ILD", 0.5, 1), ("ILD", 0.5, 1), ("Infiltration", 0.5, 1)]


def test_one_reader_who_draws_twice_is_one_reader(tmp_path: Path) -> None:
    rows = "a,ILD,5,R1,0,0,100,100\na,ILD,5,R1,5,0,100,100\na,No finding,14,R2,,,,\n"
    assert fused(tmp_path, rows) == [("ILD", 0.5, 1)]


def test_without_any_box_nothing_is_found(tmp_path: Path) -> None:
    found = fusion.fuse_boxes(
        vindr.read_annotations(table(tmp_path, "a,No finding,14,R1,,,,\n")).rows
    )
    assert found.empty
    assert list(found.columns) == list(fusion.COLUMNS)


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    rows = [f"a,ILD,5,R{k},{10 * k},0,{100 + 10 * k},100\n" for k in range(4)]
    one = fusion.fuse_boxes(vindr.read_annotations(table(tmp_path / "one", "".join(rows))).rows)
    other = fusion.fuse_boxes(
        vindr.read_annotations(table(tmp_path / "other", "".join(reversed(rows)))).rows
    )
    assert one.equals(other)


def test_agreement_on_boxes_by_hand(tmp_path: Path) -> None:
    # Three readers, so three pairs: R1-R2 match, R1-R3 and R2-R3 do not: 2 * 1 / (2 + 2 + 2).
    rows = (
        "a,ILD,5,R1,0,0,100,100\na,ILD,5,R2,5,0,100,100\na,ILD,5,R3,500,500,600,600\n"
        "b,No finding,14,R1,,,,\nb,No finding,14,R2,,,,\nb,No finding,14,R3,,,,\n"
    )
    ild = agreement.measure_agreement(vindr.read_annotations(table(tmp_path, rows)).rows)[5]
    assert ild.f1 == pytest.approx(1 / 3)
    assert ild.kappa == 1.0  # all saw it on the one image and none on the other
    assert (ild.images, ild.boxes) == (1, 3)
    nothing = agreement.measure_agreement(vindr.read_annotations(table(tmp_path, rows)).rows)[
        NODULE
    ]
    assert (nothing.f1, nothing.kappa) == (None, None)


def test_a_box_has_one_partner(tmp_path: Path) -> None:
    rows = "a,ILD,5,R1,0,0,100,100\na,ILD,5,R2,0,0,100,90\na,ILD,5,R2,0,0,90,100\n"
    ild = agreement.measure_agreement(vindr.read_annotations(table(tmp_path, rows)).rows)[5]
    assert ild.f1 == pytest.approx(2 * 1 / 3)


def test_kappa_by_hand() -> None:
    # Two images of three readers: 3 of 3 and 1 of 3. Observed (1 + 1/3) / 2, by chance 5/9.
    kappa = agreement.fleiss_kappa(np.array([3.0, 1.0]), np.array([3.0, 3.0]))
    assert kappa == pytest.approx((2 / 3 - 5 / 9) / (1 - 5 / 9))
    # What one alone read says nothing of agreement.
    same = agreement.fleiss_kappa(np.array([3.0, 1.0, 1.0]), np.array([3.0, 3.0, 1.0]))
    assert same == pytest.approx(kappa)


def test_chance_agrees_by_chance() -> None:
    marked = np.random.default_rng(1).binomial(3, 0.3, 20_000).astype(float)
    kappa = agreement.fleiss_kappa(marked, np.full(20_000, 3.0))
    assert kappa == pytest.approx(0, abs=0.02)


@given(
    st.lists(st.tuples(*[st.floats(0, 500)] * 2, *[st.floats(2, 500)] * 2), min_size=1, max_size=5)
)
def test_overlap_is_between_0_and_1_and_1_with_itself(boxes: list[tuple[float, ...]]) -> None:
    corners = np.array([[x, y, x + w, y + h] for x, y, w, h in boxes])
    found = pairwise_iou(corners, corners)
    assert np.allclose(np.diag(found), 1)
    assert (found >= 0).all()
    assert (found <= 1 + 1e-9).all()
    assert np.allclose(found, found.T)
