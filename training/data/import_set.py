"""An annotation table and a folder of study images to a set that can be trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.catalog import CATALOG
from training.data import fusion, image_checks, ingest, splits, tables, vindr
from training.data.atomic_files import explain_write_errors
from training.data.ingest import IngestedImage, IngestTask
from training.data.splits import Split
from training.data.tables import Tables
from training.data.vindr import Annotations
from training.errors import TrainingError

Told = Callable[[str, int, int], None]

_EDGE: Final = 1.0  # readers' tools count pixels from 0 or from 1
_UNNAMED: Final = "no usable row of the table names this file"
_RESIZED: Final = 0.1  # share of images with boxes outside, from which on it is no slip of a reader


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What to import and how.

    `fit`: side of the model input that pictures are stored for, None for full size. `shares`: of
    train, valid and test. `skip_bad`: leave out rows and images that cannot be used.
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


def import_dataset(wanted: ImportOptions, told: Told) -> Tables:
    """Read, check, take in, fuse and divide; writes pictures, but none of the tables.

    Raises:
        TrainingError: the input cannot be used (the message names file and row), or a picture
            cannot be stored.
    """
    read = vindr.read_annotations(wanted.annotations, skip_bad=wanted.skip_bad)
    if wanted.images is None:
        readers, images, rejected = read.rows, _unpictured(read.rows), read.rejected
    else:
        readers, images, rejected = _with_pictures(wanted, wanted.images, read, told)
    _check_classes(readers, wanted)
    told("fuse", 0, 1)
    fused = fusion.fuse_boxes(readers, iou=wanted.iou)
    told("fuse", 1, 1)
    split = _split(wanted, images, fused)
    return Tables(images, readers, fused, rejected, split)


def _unpictured(rows: pd.DataFrame) -> pd.DataFrame:
    ids = sorted(rows["image_id"].unique())
    frame = pd.DataFrame({"image_id": ids})
    for name in tables.IMAGES[1:]:
        frame[name] = 0 if name.endswith(("rows", "columns")) else ""
    return frame


def _with_pictures(
    wanted: ImportOptions, folder: Path, read: Annotations, told: Told
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Readers' rows in pixels of the stored pictures; images; what was rejected."""
    ids = read.rows["image_id"].unique().tolist()
    found, others = ingest.find_images(folder, ids)
    absent = read.rows.drop_duplicates("image_id")
    absent = absent[~absent["image_id"].isin(list(found))]
    missing = _rejects(read.source, absent, f"there is no such image in {folder}")
    if len(missing) and not wanted.skip_bad:
        raise TrainingError(
            vindr.describe_rejected(str(wanted.annotations), missing), hint=vindr.SKIP_HINT
        )
    pictures = wanted.out / tables.IMAGES_FOLDER
    tasks = [
        IngestTask(image_id, path, pictures / f"{image_id}.png", wanted.fit)
        for image_id, path in found.items()
    ]
    taken: list[IngestedImage] = []
    journal = wanted.out / ingest.JOURNAL
    with explain_write_errors(wanted.out):
        wanted.out.mkdir(parents=True, exist_ok=True)
    for done, one in enumerate(ingest.ingest_all(tasks, journal, workers=wanted.workers), start=1):
        taken.append(one)
        told("images", done, len(tasks))
    broken = pd.DataFrame(
        [(one.source, 0, one.image_id, one.why) for one in taken if one.why],
        columns=list(vindr.REJECTED),
    )
    good = sorted((one for one in taken if not one.why), key=lambda one: one.image_id)
    if not good:
        why = broken["why"].iloc[0] if len(broken) else "none was found"
        raise TrainingError(f"no image of {folder} could be used; the first: {why}")
    images = pd.DataFrame([asdict(one) for one in good])
    images["background"] = images["unknown"] = ""
    rows, outside = _placed(read, images)
    if len(outside):
        _check_size(rows, outside, folder)
        if not wanted.skip_bad:
            raise TrainingError(
                vindr.describe_rejected(str(wanted.annotations), outside), hint=vindr.SKIP_HINT
            )
    images = images[images["image_id"].isin(rows["image_id"])].reset_index(drop=True)
    strange = pd.DataFrame(
        [(name, 0, Path(name).stem, _UNNAMED) for name in others], columns=list(vindr.REJECTED)
    )
    rejected = pd.concat([read.rejected, missing, broken, outside, strange], ignore_index=True)
    return rows, images, rejected


def _rejects(source: str, rows: pd.DataFrame, why: str) -> pd.DataFrame:
    columns = {"source": source, "row": rows["row"], "image_id": rows["image_id"], "why": why}
    return pd.DataFrame(columns, index=rows.index).sort_values("row", ignore_index=True)


def _placed(read: Annotations, images: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of known images with boxes in stored pixels; those that lie outside, rejected."""
    sizes = images.set_index("image_id")[["rows", "columns", "original_rows", "original_columns"]]
    rows = read.rows.join(sizes, on="image_id", how="inner")
    outside = (rows["x_max"] > rows["original_columns"] + _EDGE) | (
        rows["y_max"] > rows["original_rows"] + _EDGE
    )
    rejected = _rejects(read.source, rows[outside], "the box reaches outside of the picture")
    rows = rows[~outside].copy()
    for axis, side in (("x", "columns"), ("y", "rows")):
        scale = rows[side] / rows[f"original_{side}"]
        for end in ("min", "max"):
            moved = rows[f"{axis}_{end}"] * scale
            rows[f"{axis}_{end}"] = moved.clip(lower=0).clip(upper=rows[side]).round(2)
    return rows[list(read.rows.columns)].reset_index(drop=True), rejected


def _check_size(rows: pd.DataFrame, outside: pd.DataFrame, folder: Path) -> None:
    drawn = set(rows.loc[rows["class_id"] < len(CATALOG), "image_id"]) | set(outside["image_id"])
    share = outside["image_id"].nunique() / len(drawn)
    if share > _RESIZED and len(drawn) >= 10:
        raise TrainingError(
            f"{100 * share:.0f}% of the marked images in {folder} are smaller than their boxes "
            f"(the first in row {outside['row'].iloc[0]}): they are not the pictures that the "
            "readers saw",
            hint="Give the original images, or a table with boxes for the resized ones.",
        )


def _check_classes(readers: pd.DataFrame, wanted: ImportOptions) -> None:
    shown = set(readers["class_id"])
    absent = [finding.name for finding in CATALOG if finding.index not in shown]
    if absent and not wanted.allow_absent_classes:
        raise TrainingError(
            f"{wanted.annotations} has no example of {', '.join(absent)}",
            hint="Nothing can be learnt or measured of them. --allow-absent-classes goes on.",
        )


def _split(wanted: ImportOptions, images: pd.DataFrame, fused: pd.DataFrame) -> Split:
    frozen = wanted.out / splits.FILE
    if frozen.is_file() and not wanted.new_split:
        split = splits.load_split(frozen)
        if {image for ids in split.images.values() for image in ids} != set(images["image_id"]):
            raise TrainingError(
                f"{frozen} was frozen for other images than these",
                hint="Give another --out, or --new-split: figures of before no longer compare.",
            )
        return split
    return divide_dataset(images, fused, seed=wanted.seed, shares=wanted.shares)


def divide_dataset(
    images: pd.DataFrame,
    fused: pd.DataFrame,
    *,
    seed: int,
    shares: tuple[float, float, float],
) -> Split:
    """Divide a set: patients and near-duplicates together, classes spread evenly.

    Raises:
        TrainingError: a split would be empty.
    """
    ids = images["image_id"].tolist()
    return splits.make_split(
        ids, build_label_matrix(ids, fused), group_images(images), seed=seed, shares=shares
    )


def build_label_matrix(ids: Sequence[str], fused: pd.DataFrame) -> NDArray[np.bool_]:
    """Marks as bool (images, classes + 1): what is marked where; the last column is "nothing"."""
    labels = np.zeros((len(ids), len(CATALOG) + 1), np.bool_)
    place = {image_id: k for k, image_id in enumerate(ids)}
    labels[fused["image_id"].map(place).to_numpy(int), fused["class_id"].to_numpy(int)] = True
    labels[:, -1] = ~labels.any(axis=1)
    return labels


def group_images(images: pd.DataFrame) -> list[str]:
    """Names of what must not be parted: patients where they are known, pictures that look alike."""
    known = images["patient_id"] != ""
    if images.loc[known, "patient_id"].nunique() < 2:
        known &= False  # one name for all is what a de-identifier writes
    names = images["image_id"].where(~known, images["patient_id"]).tolist()
    printed = [k for k, hash_ in enumerate(images["fingerprint"]) if hash_]
    alike = image_checks.find_near_duplicates([str(images["fingerprint"].iat[k]) for k in printed])
    return image_checks.merge_groups(
        names, [(printed[i], printed[j], bits) for i, j, bits in alike]
    )
