"""A table and a folder of studies become a set; whatever is wrong is named or listed."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_agent.imaging import read_study
from hilum.catalog import CATALOG
from tests.support.training.crashing import crash_on_b, hang_on_b
from training.data import (
    dataset,
    exports,
    import_set,
    ingest,
    ingested_image,
    quality_report,
    splits,
    tables,
)
from training.data.import_set import ImportOptions
from training.data.ingested_image import IngestTask
from training.errors import TrainingError
from training.synthetic import dicom_studies


def quiet(stage: str, done: int, total: int) -> None:
    pass


def options_for(annotated: Path, out: Path, **changed: object) -> ImportOptions:
    options = ImportOptions(
        annotations=annotated / dicom_studies.TABLE,
        images=annotated / "studies",
        out=out,
        shares=(0.6, 0.2, 0.2),
        workers=1,
        allow_absent_classes=True,
    )
    return replace(options, **changed)


def import_into(options: ImportOptions) -> Path:
    found = import_set.import_dataset(options, quiet)
    tables.write_tables(found, options.out, quality_report.render_report(found, options.out))
    return options.out


@pytest.fixture(scope="module")
def a_set(annotated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return import_into(options_for(annotated, tmp_path_factory.mktemp("imported") / "set"))


@pytest.fixture
def copy(annotated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(annotated, tmp_path / "copy"))


def test_entries_hold_the_clinics_pixels_and_the_headers_facts(
    annotated: Path, a_set: Path
) -> None:
    entries = dataset.load_dataset(a_set)
    files = {path.stem: path for path in (annotated / "studies").rglob("*.dicom")}
    assert {entry.image_id for entry in entries} == set(files)
    for entry in entries[:4]:
        radiograph, context = read_study(files[entry.image_id].read_bytes())
        assert np.array_equal(entry.read_pixels(), radiograph.pixels)
        assert entry.facts["sex"] == context.patient_sex
        assert entry.facts["age"] == context.patient_age[:3].lstrip("0")
        assert entry.facts["view"] == radiograph.facts.view
        assert (
            entry.patient == ingested_image.make_pseudonym(context.patient_id) != context.patient_id
        )
    weights = {label.weight for entry in entries for label in entry.labels}
    assert weights <= {0.3333, 0.6667, 1.0}
    assert len(weights) > 1


def test_split_entries_are_the_frozen_ones(a_set: Path) -> None:
    split = splits.load_split(a_set)
    for name in splits.NAMES:
        assert (
            tuple(entry.image_id for entry in dataset.load_dataset(a_set, name))
            == split.images[name]
        )
    sides = [
        {entry.patient for entry in dataset.load_dataset(a_set, name)} for name in splits.NAMES
    ]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]


def test_stored_for_an_input_they_are_what_the_agent_makes_of_it(
    annotated: Path, tmp_path: Path
) -> None:
    out = import_into(options_for(annotated, tmp_path / "small", fit=160))
    files = {path.stem: path for path in (annotated / "studies").rglob("*.dicom")}
    full = tables.read_tables(out).images.iloc[0]
    pixels = read_study(files[full["image_id"]].read_bytes(), fit=(160, 160))[0].pixels
    stored = cv2.imread(str(out / "images" / f"{full['image_id']}.png"), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(stored, pixels)
    assert (full["rows"], full["original_rows"]) == (160, 512)
    assert tables.read_tables(out).readers["x_max"].max() <= 160


def test_broken_files_are_left_out_and_listed(copy: Path, tmp_path: Path) -> None:
    files = sorted((copy / "studies").rglob("*.dicom"))
    files[0].write_bytes(b"no picture")
    files[1].write_bytes(files[1].read_bytes()[:3000])
    cv2.imwrite(str(files[2].with_suffix(".png")), np.full((300, 300), 7, np.uint8))
    files[2].unlink()
    out = import_into(options_for(copy, tmp_path / "set"))
    rejected = tables.read_tables(out).rejected
    assert set(rejected["image_id"]) == {file.stem for file in files[:3]}
    assert rejected["why"].str.contains("nearly one grey value").sum() == 1
    assert len(dataset.load_dataset(out)) == len(files) - 3
    report = (out / tables.REPORT).read_text()
    for file in files[:3]:
        assert file.stem in report


def test_missing_images_are_named_by_row_or_left_out(copy: Path, tmp_path: Path) -> None:
    gone = min((copy / "studies").rglob("*.dicom"))
    gone.unlink()
    with pytest.raises(TrainingError, match=r"annotations\.csv, row \d+: there is no such image"):
        import_set.import_dataset(options_for(copy, tmp_path / "set"), quiet)
    assert not (tmp_path / "set").exists()
    out = import_into(options_for(copy, tmp_path / "set", skip_bad=True))
    assert tables.read_tables(out).rejected["image_id"].tolist() == [gone.stem]


def test_files_that_nobody_annotated_are_listed(copy: Path, tmp_path: Path) -> None:
    (copy / "studies" / "more").mkdir()
    for name in ("000012.dcm", "more/stray.png"):
        (copy / "studies" / name).touch()
    (copy / "studies" / "notes.txt").touch()  # no study image
    out = import_into(options_for(copy, tmp_path / "set"))
    rejected = tables.read_tables(out).rejected
    assert rejected["image_id"].tolist() == ["000012", "stray"]
    assert rejected["source"].tolist() == ["000012.dcm", "stray.png"]
    why = "no usable row of the table names this file"
    assert set(rejected["why"]) == {why}
    report = (out / tables.REPORT).read_text()
    assert f"{why}: 2" in report
    assert "stray.png" in report


def test_boxes_outside_are_named_by_row_or_left_out(copy: Path, tmp_path: Path) -> None:
    table = copy / dicom_studies.TABLE
    lines = table.read_text().splitlines()
    name = lines[1].split(",")[0]
    table.write_text("\n".join([*lines, f"{name},ILD,5,R1,100,100,700,300"]) + "\n")
    with pytest.raises(TrainingError, match=rf"row {len(lines) + 1}: the box reaches outside"):
        import_set.import_dataset(options_for(copy, tmp_path / "set"), quiet)
    out = import_into(options_for(copy, tmp_path / "set", skip_bad=True))
    rejected = tables.read_tables(out).rejected
    assert rejected["row"].tolist() == [len(lines) + 1]


def test_resized_pictures_are_not_taken_for_the_originals(copy: Path, tmp_path: Path) -> None:
    for file in (copy / "studies").rglob("*.dicom"):
        pixels = read_study(file.read_bytes())[0].pixels
        cv2.imwrite(str(file.with_suffix(".png")), cv2.resize(pixels, (128, 128)))
        file.unlink()
    with pytest.raises(TrainingError, match="not the images that the readers saw"):
        import_set.import_dataset(options_for(copy, tmp_path / "set", skip_bad=True), quiet)


def test_a_class_without_example_is_named(annotated: Path, tmp_path: Path) -> None:
    options = options_for(annotated, tmp_path / "set", allow_absent_classes=False, images=None)
    table = tmp_path / "few.csv"
    lines = (annotated / dicom_studies.TABLE).read_text().splitlines()
    table.write_text("\n".join(line for line in lines if ",Pneumothorax," not in line) + "\n")
    with pytest.raises(TrainingError, match=r"no example of .*Pneumothorax"):
        import_set.import_dataset(replace(options, annotations=table), quiet)


def test_a_second_run_decodes_nothing_anew(annotated: Path, a_set: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (a_set / "images").iterdir()}
    digest = splits.load_split(a_set).digest
    victim = next(iter(before))
    victim.write_bytes(b"torn")  # as a power cut may leave it
    import_into(options_for(annotated, a_set))
    after = {path: path.stat().st_mtime_ns for path in (a_set / "images").iterdir()}
    assert {path for path in before if before[path] != after[path]} == {victim}
    assert cv2.imread(str(victim), cv2.IMREAD_GRAYSCALE) is not None
    assert splits.load_split(a_set).digest == digest


def test_a_torn_note_is_forgotten(a_set: Path, annotated: Path) -> None:
    journal = a_set / ingest.JOURNAL
    whole = journal.read_text()
    journal.write_text(whole[:-30])
    import_into(options_for(annotated, a_set))
    noted = {json.loads(line)["image_id"] for line in journal.read_text().splitlines()}
    assert noted == {entry.image_id for entry in dataset.load_dataset(a_set)}


def test_a_set_is_not_rewritten_at_another_size(annotated: Path, a_set: Path) -> None:
    with pytest.raises(TrainingError, match="at another size"):
        import_set.import_dataset(options_for(annotated, a_set, fit=96), quiet)


def test_a_frozen_split_is_not_made_for_other_images(
    copy: Path, a_set: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(a_set, tmp_path / "set"))
    min((copy / "studies").rglob("*.dicom")).unlink()
    shutil.rmtree(out / "images")
    (out / ingest.JOURNAL).unlink()
    with pytest.raises(TrainingError, match="frozen for other images"):
        import_set.import_dataset(options_for(copy, out, skip_bad=True), quiet)
    import_into(options_for(copy, out, skip_bad=True, new_split=True))


def test_the_same_picture_is_never_on_two_sides(copy: Path, tmp_path: Path) -> None:
    table, files = copy / dicom_studies.TABLE, sorted((copy / "studies").rglob("*.dicom"))
    pixels = read_study(files[0].read_bytes())[0].pixels
    text = table.read_text()
    for k in range(4):
        cv2.imwrite(str(copy / "studies" / f"again{k}.png"), pixels)
        text += f"again{k},No finding,14,R1,,,,\n"
    table.write_text(text)
    out = import_into(options_for(copy, tmp_path / "set"))
    same = {files[0].stem, *(f"again{k}" for k in range(4))}
    assert [same <= set(ids) for ids in splits.load_split(out).images.values()].count(True) == 1
    assert "near-duplicates in one split" in (out / tables.REPORT).read_text()


@pytest.mark.slow
def test_a_decoder_that_crashes_costs_its_file_only(tmp_path: Path) -> None:
    tasks = [IngestTask(name, tmp_path / name, tmp_path / f"{name}.png", None) for name in "abcd"]
    ingested = list(ingest.ingest_all(tasks, tmp_path / "notes", workers=2, ingest=crash_on_b))
    assert sorted(image.image_id for image in ingested) == list("abcd")
    assert {image.image_id: image.why for image in ingested if image.why} == {
        "b": "the decoder crashed on it"
    }


@pytest.mark.slow
def test_a_decoder_that_hangs_costs_its_file_only(tmp_path: Path) -> None:
    tasks = [
        IngestTask(name, tmp_path / name, tmp_path / f"{name}.png", None) for name in "abcdefg"
    ]
    notes = tmp_path / "notes"
    ingested = list(ingest.ingest_all(tasks, notes, workers=2, ingest=hang_on_b, limit_s=2))
    assert sorted(image.image_id for image in ingested) == list("abcdefg")
    why = "the decoder did not finish within 2 s"
    assert {image.image_id: image.why for image in ingested if image.why} == {"b": why}
    assert "b" not in {json.loads(line)["image_id"] for line in notes.read_text().splitlines()}


def test_two_files_for_one_image_are_named(tmp_path: Path) -> None:
    for name in ("a.dcm", "sub/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(TrainingError, match=r"a\.dcm and .*a\.png"):
        ingest.find_images(tmp_path, ["a"])


def test_yolo(a_set: Path, tmp_path: Path) -> None:
    count = exports.export_yolo(a_set, tmp_path, lambda stage, done, total: None)
    assert count == len(dataset.load_dataset(a_set))
    entry = next(entry for entry in dataset.load_dataset(a_set, "train") if entry.labels)
    lines = (tmp_path / "labels/train" / f"{entry.image_id}.txt").read_text().splitlines()
    assert len(lines) == len(entry.labels)
    index, x, y, width, height = map(float, lines[0].split())
    label = entry.labels[0]
    assert index == label.index
    assert 512 * (x - width / 2) == pytest.approx(label.x_min, abs=0.01)
    assert 512 * (y + height / 2) == pytest.approx(label.y_max, abs=0.01)
    assert (tmp_path / "images/train" / entry.path.name).read_bytes() == entry.path.read_bytes()
    assert '  8: "Nodule/Mass"' in (tmp_path / "data.yaml").read_text()


@pytest.mark.training
def test_yolo_is_found_by_ultralytics_from_anywhere(
    a_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics.data.utils import check_det_dataset

    # It would fetch a font to write on pictures with.
    monkeypatch.setattr("ultralytics.data.utils.check_font", lambda font: None)
    out = tmp_path / "yolo"
    exports.export_yolo(a_set, out, lambda stage, done, total: None)
    for here in (tmp_path, out, Path("/")):
        monkeypatch.chdir(here)
        file = Path(os.path.relpath(out / "data.yaml", here))
        for path in (file, file.absolute()):
            known = check_det_dataset(path, autodownload=False)
            for ours, theirs in (("train", "train"), ("valid", "val"), ("test", "test")):
                assert Path(known[theirs]) == (out / "images" / ours).resolve()
            assert known["names"] == {finding.index: finding.name for finding in CATALOG}


@pytest.mark.parametrize("form", ["yolo", "coco"])
def test_a_second_split_is_not_exported_over_the_first(
    a_set: Path, tmp_path: Path, form: str
) -> None:
    out = tmp_path / "out"
    exports.EXPORTERS[form](a_set, out, lambda stage, done, total: None)
    before = sorted(out.rglob("*"))
    anew = Path(shutil.copytree(a_set, tmp_path / "set"))
    known = tables.read_tables(anew)
    other = import_set.divide_dataset(known.images, known.fused, seed=9, shares=(0.6, 0.2, 0.2))
    splits.save_split(other, anew / splits.FILE)
    with pytest.raises(TrainingError, match="is not empty") as caught:
        exports.EXPORTERS[form](anew, out, lambda stage, done, total: None)
    assert "two splits" in caught.value.hint
    assert sorted(out.rglob("*")) == before


def test_coco_is_read_by_cocos_own_library(a_set: Path, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    exports.export_coco(a_set, tmp_path, lambda stage, done, total: None)
    for name in splits.NAMES:
        file = tmp_path / "annotations" / f"instances_{name}.json"
        coco = COCO(str(file))
        entries = dataset.load_dataset(a_set, name)
        assert len(coco.getImgIds()) == len(entries)
        assert len(coco.getAnnIds()) == sum(len(entry.labels) for entry in entries)
        assert len(coco.getCatIds()) == len(CATALOG)
        assert json.loads(file.read_text())["info"]["split"] == splits.load_split(a_set).digest
