"""Box statistics: what is measured, what is shipped, what is sampled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hilum.catalog import BY_SLUG, CATALOG
from tests.support.system.disks import room_for
from training.errors import TrainingError
from training.synthetic import box_statistics

HEADER = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n"
# A heart 570 wide and an aorta 100 wide: thorax 1000, knob at y 500, heart's centre at y 900.
ANCHORS = "{0},Cardiomegaly,3,R1,260,750,830,1050\n{0},Aortic enlargement,0,R1,500,400,600,600\n"


def table(folder: Path, rows: str) -> Path:
    path = folder / "train.csv"
    path.write_text(HEADER + rows)
    return path


def test_positions_are_of_the_patient_not_of_the_picture(tmp_path: Path) -> None:
    rows = ANCHORS.format("a") + "a,Nodule/Mass,8,R1,325,860,425,940\nb,No finding,14,R1,,,,\n"
    measured = box_statistics.measure_statistics(table(tmp_path, rows))
    nodule = measured.classes[BY_SLUG["nodule_mass"].index]
    assert measured.images == 2
    assert nodule.boxes == 1
    assert nodule.image_frequency == 0.5
    u, v, width, height = measured.sample(BY_SLUG["nodule_mass"].index, np.random.default_rng(0))
    assert -0.2 < u < -0.05  # left of the middle, about a tenth of a thorax
    assert 0.8 < v < 1.2  # at the heart's level
    assert 0.07 < width < 0.15
    assert 0.15 < height < 0.3


def test_classes_marked_together(tmp_path: Path) -> None:
    rows = ANCHORS.format("a") + ANCHORS.format("b") + "b,ILD,5,R1,300,700,500,900\n"
    measured = box_statistics.measure_statistics(table(tmp_path, rows))
    heart, ild = BY_SLUG["cardiomegaly"].index, BY_SLUG["ild"].index
    assert measured.together[heart, ild] == 0.5
    assert measured.together[ild, heart] == 1.0


def test_saved_and_loaded_again_says_the_same(tmp_path: Path) -> None:
    measured = box_statistics.measure_statistics(table(tmp_path, ANCHORS.format("a")))
    box_statistics.save_statistics(measured, tmp_path / "boxes.json")
    loaded = box_statistics.load_statistics(tmp_path / "boxes.json")
    for one, other in zip(measured.classes, loaded.classes, strict=True):
        assert np.allclose(one.centres, other.centres, atol=2e-3)
        assert np.allclose(one.sizes, other.sizes, atol=2e-3)
        assert one.boxes == other.boxes
    before = (tmp_path / "boxes.json").read_bytes()
    with room_for(100), pytest.raises(TrainingError, match="cannot write"):
        box_statistics.save_statistics(measured, tmp_path / "boxes.json")
    assert (tmp_path / "boxes.json").read_bytes() == before


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("a,Broken leg,3,R1,1,1,2,2\n", "Broken leg"),
        ("a,No finding,14,R1,,,,\n", "no box"),
        ("a,ILD,5,R1,300,700,500,900\n", "aorta and heart"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, rows: str, says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        box_statistics.measure_statistics(table(tmp_path, rows))


def test_missing_column_and_missing_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("image_id,class_name\na,ILD\n")
    with pytest.raises(TrainingError, match="x_min"):
        box_statistics.measure_statistics(tmp_path / "train.csv")
    with pytest.raises(TrainingError, match=r"absent\.csv"):
        box_statistics.measure_statistics(tmp_path / "absent.csv")


def test_shipped_aggregates_are_those_of_the_whole_table() -> None:
    shipped = box_statistics.load_statistics()
    assert shipped.images == 15_000
    boxes = {f.slug: c.boxes for f, c in zip(CATALOG, shipped.classes, strict=True)}
    assert sum(boxes.values()) == 36_096  # 67,914 rows less 31,818 of 'No finding'
    assert boxes["aortic_enlargement"] == 7162
    assert boxes["pneumothorax"] == 226
    heart = shipped.classes[BY_SLUG["cardiomegaly"].index]
    assert heart.image_frequency == pytest.approx(2300 / 15_000, abs=1e-4)


def test_samples_follow_the_shipped_histograms() -> None:
    shipped = box_statistics.load_statistics()
    rng = np.random.default_rng(3)
    for index in (BY_SLUG["nodule_mass"].index, BY_SLUG["pleural_effusion"].index):
        drawn = np.array([shipped.sample(index, rng) for _ in range(3000)])
        counts = (
            np.histogram2d(drawn[:, 0], drawn[:, 1], bins=box_statistics.CENTRE_EDGES)[0] / 3000
        )
        assert np.abs(counts - shipped.classes[index].centres).sum() < 0.3
