"""Synthetic studies are real DICOM files whose pixels are those painted, read by three readers."""

from __future__ import annotations

from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from edge_agent.imaging import read_study
from hilum.catalog import CATALOG
from training.data import vindr
from training.data.labels import Label
from training.errors import TrainingError
from training.synthetic import box_statistics, dicom_studies, lungs, simulated_readers
from training.synthetic.generator import SIZE, Generator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator(lungs.load_shape_model(), box_statistics.load_statistics())


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("compressed", [False, True])
def test_the_agent_sees_what_was_painted(
    generator: Generator, photometric: str, compressed: bool
) -> None:
    pixels = generator.sample(3).pixels
    study = dicom_studies.Study(
        3, "a1", "S1", 2, "F", 47, "PA", "Baryta", photometric=photometric, compressed=compressed
    )
    assert study.path.name == "a1.dicom"
    ds = dicom_studies.build_dataset(pixels, study)
    file = BytesIO()
    ds.save_as(file, enforce_file_format=True)
    radiograph, context = read_study(file.getvalue())
    assert np.abs(radiograph.pixels.astype(int) - pixels).max() <= 1
    assert (radiograph.facts.photometric, radiograph.facts.view) == (photometric, "PA")
    assert radiograph.facts.manufacturer == "Baryta"
    assert (context.patient_id, context.patient_sex, context.patient_age) == ("S1", "F", "047Y")


def test_patients_have_several_studies_and_vary() -> None:
    planned = dicom_studies.plan_studies(range(400, 600))
    assert planned == dicom_studies.plan_studies(range(400, 600))
    assert len({study.image_id for study in planned}) == len(planned) == 200
    per_patient = Counter(study.patient for study in planned)
    assert set(per_patient.values()) >= {1, 2, 3}
    assert {s.photometric for s in planned} == {"MONOCHROME1", "MONOCHROME2"}
    assert {s.view for s in planned} == {"PA", "AP"}
    assert len({s.machine for s in planned}) == 3
    assert len({(s.patient, s.sex, s.machine) for s in planned}) == len(per_patient)


def test_readers_differ_a_little() -> None:
    label = Label(8, 100, 100, 160, 150)
    drawn = [
        simulated_readers.simulate_reading([label], SIZE, np.random.default_rng(seed))
        for seed in range(300)
    ]
    own = [found for seen in drawn for found in seen if found.index == 8]
    assert 0.7 < len(own) / 300 < 0.9
    edges = np.array([[f.x_min, f.y_min, f.x_max, f.y_max] for f in own])
    assert np.abs(edges.mean(axis=0) - [100, 100, 160, 150]).max() < 1
    assert (edges.std(axis=0) > 1).all()
    assert (edges[:, 2:] - edges[:, :2] >= 3).all()


def test_the_table_is_one_that_the_importer_reads(annotated: Path) -> None:
    table = vindr.read_annotations(annotated / dicom_studies.TABLE)
    files = {path.stem for path in (annotated / "studies").rglob("*.dicom")}
    assert set(table.rows["image_id"]) == files
    assert (table.rows.groupby("image_id")["rad_id"].nunique() == 3).all()
    assert (table.rows["class_id"] < len(CATALOG)).any()
    assert (table.rows["class_id"] == len(CATALOG)).any()


def test_a_whole_set_is_not_painted_over(generator: Generator, annotated: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in annotated.rglob("*")}
    with pytest.raises(TrainingError, match="holds a data set already"):
        next(dicom_studies.write_studies(generator, annotated, range(1)))
    assert {path: path.stat().st_mtime_ns for path in annotated.rglob("*")} == before


def test_real_backgrounds_are_refused(generator: Generator, tmp_path: Path) -> None:
    real = Generator(generator.shapes, generator.statistics, backgrounds=(None,))  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="without real backgrounds"):
        next(dicom_studies.write_studies(real, tmp_path, range(1)))
    assert not list(tmp_path.iterdir())
