"""Import of a data set: an annotation table and a folder of study images become a set to train on.

The steps are: read and check the table, ingest the images, move the readers' boxes into pixels of
the stored images, fuse the boxes, divide the images into splits. What cannot be used is listed in
the table of rejected rows and files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.catalog import CATALOG
from training.data import fusion, image_checks, ingest, splits, tables, vindr
from training.data.atomic_files import explain_write_errors
from training.data.ingested_image import IngestedImage, IngestTask
from training.data.splits import Split
from training.data.tables import Tables
from training.data.vindr import Annotations
from training.errors import TrainingError
from training.progress import ProgressCallback

_EDGE: Final = 1.0  # Annotation tools count pixels from 0 or from 1.
_UNNAMED: Final = "no usable row of the table names this file"
_RESIZED: Final = 0.1
"""Share of marked images with boxes outside from which on the images were resized. Below it, the
boxes are a reader's slips."""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What to import and how.

    `fit` is the side in pixels of the model input that images are stored for, None for full size.
    `iou` is the overlap from which on readers' boxes are fused. `shares` are those of train, valid
    and test. `skip_bad` leaves out rows and images that cannot be used.
    """

    annotations: Path
    images: Path | None
    out: Path
    fit: int | None = 1024
    iou: float = fusion.DEFAULT_IOU
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    workers: int = 2
    skip_bad: bool = False
    new_split: bool = False
    allow_absent_classes: bool = False


def import_dataset(options: ImportOptions, on_progress: ProgressCallback) -> Tables:
    """Read, check, ingest, fuse and divide; write the images, but none of the tables.

    Args:
        options: what to import.
        on_progress: called as images are ingested and boxes are fused.

    Returns:
        The tables of the data set.

    Raises:
        TrainingError: the input cannot be used (the message names file and row), or an image
            cannot be stored.
    """
    annotations = vindr.read_annotations(options.annotations, skip_bad=options.skip_bad)
    if options.images is None:
        readers, rejected = annotations.rows, annotations.rejected
        images = _list_without_files(readers)
    else:
        readers, images, rejected = _import_images(
            options, options.images, annotations, on_progress
        )
    _check_classes(readers, options)
    on_progress("fuse", 0, 1)
    fused = fusion.fuse_boxes(readers, iou=options.iou)
    on_progress("fuse", 1, 1)
    split = _load_or_make_split(options, images, fused)
    return Tables(images, readers, fused, rejected, split)


def _list_without_files(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the table of images where only annotations are imported: ids, and no facts."""
    frame = pd.DataFrame({"image_id": sorted(rows["image_id"].unique())})
    for name in tables.IMAGES[1:]:
        frame[name] = 0 if name.endswith(("rows", "columns")) else ""
    return frame


def _import_images(
    options: ImportOptions,
    folder: Path,
    annotations: Annotations,
    on_progress: ProgressCallback,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Ingest the images that the table names.

    Returns:
        The readers' rows in pixels of the stored images, the images, and what was rejected.
    """
    found, others = ingest.find_images(folder, annotations.rows["image_id"].unique().tolist())
    missing = _reject_missing(annotations, set(found), folder)
    _refuse_unless_skipped(missing, options)
    ingested = _ingest_images(options, found, on_progress)
    images = _tabulate_images(ingested, folder)
    rows, outside = _scale_boxes(annotations, images)
    if len(outside):
        _check_not_resized(rows, outside, folder)
        _refuse_unless_skipped(outside, options)
    # An image all of whose rows were rejected is no example of anything, so it is left out.
    images = images[images["image_id"].isin(rows["image_id"])].reset_index(drop=True)
    rejected = [
        annotations.rejected,
        missing,
        _reject_files((i.source, i.image_id, i.why) for i in ingested if i.why),
        outside,
        _reject_files((name, Path(name).stem, _UNNAMED) for name in others),
    ]
    return rows, images, pd.concat(rejected, ignore_index=True)


def _reject_missing(annotations: Annotations, found: set[str], folder: Path) -> pd.DataFrame:
    """Return the first row of each image that has no file."""
    first = annotations.rows.drop_duplicates("image_id")
    absent = first[~first["image_id"].isin(list(found))]
    return _reject_rows(annotations.source, absent, f"there is no such image in {folder}")


def _ingest_images(
    options: ImportOptions, found: Mapping[str, Path], on_progress: ProgressCallback
) -> list[IngestedImage]:
    folder = options.out / tables.IMAGES_FOLDER
    tasks = [
        IngestTask(image_id, path, folder / f"{image_id}.png", options.fit)
        for image_id, path in found.items()
    ]
    with explain_write_errors(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    ingested = []
    journal = options.out / ingest.JOURNAL
    for image in ingest.ingest_all(tasks, journal, workers=options.workers):
        ingested.append(image)
        on_progress("images", len(ingested), len(tasks))
    return ingested


def _tabulate_images(ingested: Sequence[IngestedImage], folder: Path) -> pd.DataFrame:
    """Return the stored images as a table, in the order of their ids."""
    stored = sorted((i for i in ingested if not i.why), key=lambda image: image.image_id)
    if not stored:
        why = ingested[0].why if ingested else "none was found"
        raise TrainingError(f"no image of {folder} could be used; the first: {why}")
    images = pd.DataFrame([asdict(image) for image in stored])
    images["background"] = images["unknown"] = ""
    return images


def _refuse_unless_skipped(rejected: pd.DataFrame, options: ImportOptions) -> None:
    if len(rejected) and not options.skip_bad:
        message = vindr.describe_rejected(str(options.annotations), rejected)
        raise TrainingError(message, hint=vindr.SKIP_HINT)


def _reject_rows(source: str, rows: pd.DataFrame, why: str) -> pd.DataFrame:
    columns = {"source": source, "row": rows["row"], "image_id": rows["image_id"], "why": why}
    return pd.DataFrame(columns, index=rows.index).sort_values("row", ignore_index=True)


def _reject_files(files: Iterable[tuple[str, str, str]]) -> pd.DataFrame:
    """Return rejected files (name, image id, reason) as a table; row 0 means the whole file."""
    return pd.DataFrame(
        [(source, 0, image_id, why) for source, image_id, why in files],
        columns=list(vindr.REJECTED),
    )


def _scale_boxes(
    annotations: Annotations, images: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of stored images with boxes in stored pixels, and rows with boxes outside."""
    sizes = images.set_index("image_id")[["rows", "columns", "original_rows", "original_columns"]]
    rows = annotations.rows.join(sizes, on="image_id", how="inner")
    outside = (rows["x_max"] > rows["original_columns"] + _EDGE) | (
        rows["y_max"] > rows["original_rows"] + _EDGE
    )
    why = "the box reaches outside of the image"
    rejected = _reject_rows(annotations.source, rows[outside], why)
    rows = rows[~outside].copy()
    for axis, side in (("x", "columns"), ("y", "rows")):
        scale = rows[side] / rows[f"original_{side}"]
        for end in ("min", "max"):
            scaled = rows[f"{axis}_{end}"] * scale
            rows[f"{axis}_{end}"] = scaled.clip(lower=0).clip(upper=rows[side]).round(2)
    return rows[list(annotations.rows.columns)].reset_index(drop=True), rejected


def _check_not_resized(rows: pd.DataFrame, outside: pd.DataFrame, folder: Path) -> None:
    marked = set(rows.loc[rows["class_id"] < len(CATALOG), "image_id"]) | set(outside["image_id"])
    share = outside["image_id"].nunique() / len(marked)
    if share > _RESIZED and len(marked) >= 10:
        raise TrainingError(
            f"{100 * share:.0f}% of the marked images in {folder} are smaller than their boxes "
            f"(the first in row {outside['row'].iloc[0]}): they are not the images that the "
            "readers saw",
            hint="Give the original images, or a table with boxes for the resized ones.",
        )


def _check_classes(readers: pd.DataFrame, options: ImportOptions) -> None:
    present = set(readers["class_id"])
    absent = [finding.name for finding in CATALOG if finding.index not in present]
    if absent and not options.allow_absent_classes:
        raise TrainingError(
            f"{options.annotations} has no example of {', '.join(absent)}",
            hint="These classes can be neither trained nor measured. "
            "--allow-absent-classes continues without them.",
        )


def _load_or_make_split(options: ImportOptions, images: pd.DataFrame, fused: pd.DataFrame) -> Split:
    frozen = options.out / splits.FILE
    if not frozen.is_file() or options.new_split:
        return divide_dataset(images, fused, seed=options.seed, shares=options.shares)
    split = splits.load_split(frozen)
    if {image for ids in split.images.values() for image in ids} != set(images["image_id"]):
        raise TrainingError(
            f"{frozen} was frozen for other images than these",
            hint="Give another --out, or --new-split: metrics of the two splits cannot be "
            "compared.",
        )
    return split


def divide_dataset(
    images: pd.DataFrame,
    fused: pd.DataFrame,
    *,
    seed: int,
    shares: tuple[float, float, float],
) -> Split:
    """Divide a data set; patients and near-duplicates stay together, classes are spread evenly.

    Args:
        images: the table of images.
        fused: the table of fused boxes.
        seed: the same seed divides the same images in the same way.
        shares: of train, valid and test, summing to 1.

    Returns:
        The split.

    Raises:
        TrainingError: a split would be empty.
    """
    ids = images["image_id"].tolist()
    labels = build_label_matrix(ids, fused)
    return splits.make_split(ids, labels, group_images(images), seed=seed, shares=shares)


def build_label_matrix(ids: Sequence[str], fused: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which classes are marked, bool (images, classes + 1); the last column: no finding."""
    labels = np.zeros((len(ids), len(CATALOG) + 1), np.bool_)
    row_of = {image_id: k for k, image_id in enumerate(ids)}
    labels[fused["image_id"].map(row_of).to_numpy(int), fused["class_id"].to_numpy(int)] = True
    labels[:, -1] = ~labels.any(axis=1)
    return labels


def group_images(images: pd.DataFrame) -> list[str]:
    """Return a group name per image; images of a patient and near-duplicates share a group."""
    known = images["patient_id"] != ""
    if images.loc[known, "patient_id"].nunique() < 2:
        known &= False  # A de-identifier writes one name for all patients.
    names = images["image_id"].where(~known, images["patient_id"]).tolist()
    hashed = [k for k, fingerprint in enumerate(images["fingerprint"]) if fingerprint]
    pairs = image_checks.find_near_duplicates([str(images["fingerprint"].iat[k]) for k in hashed])
    return image_checks.merge_groups(names, [(hashed[i], hashed[j], bits) for i, j, bits in pairs])
