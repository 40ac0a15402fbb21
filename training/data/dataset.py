"""A set on disk: PNG pictures, boxes in VinDr-CXR's columns, facts per image.

images/<image_id>.png   u8 grey
annotations.csv         image_id, class_name, class_id, x_min, y_min, x_max, y_max in pixels of the
                        stored picture; `weight`, `readers` where readers' boxes were fused
images.csv              image_id, background, unknown (slugs, parted by spaces); where known
                        rows, columns, patient_id, sex, age (years), view, manufacturer, photometric
split.json              which image is in which split (`training.data.splits`), once that is made

A set that was imported also keeps every reader's own boxes (readers.csv), what was left out
(rejected.csv) and report.html; see `training.data.tables`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hilum.catalog import BY_NAME, BY_SLUG
from training.data import splits
from training.data.labels import Label
from training.errors import TrainingError

NO_FINDING: Final = "No finding"
FACTS: Final = ("sex", "age", "view", "manufacturer", "photometric")
IMAGES: Final = "images.csv"
ANNOTATIONS: Final = "annotations.csv"


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One stored image: where it lies, what is marked on it, what not to learn from it.

    `patient` is "" where nobody is known; `facts` holds what is known of sex, age, view,
    manufacturer and photometric, by these names.
    """

    image_id: str
    path: Path
    background: str
    unknown: frozenset[int]
    labels: tuple[Label, ...]
    patient: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    def read_pixels(self) -> NDArray[np.uint8]:
        """The picture, u8 (H, W).

        Raises:
            TrainingError: the file is gone or is no picture.
        """
        pixels = cv2.imread(str(self.path), cv2.IMREAD_GRAYSCALE)
        if pixels is None:
            raise TrainingError(f"cannot read the image {self.path}")
        return np.asarray(pixels, np.uint8)


def refuse_existing_dataset(folder: Path) -> None:
    """Leave a whole set alone: while it is painted over, its tables label other pictures.

    Raises:
        TrainingError: the folder holds a set's table.
    """
    for name in (IMAGES, ANNOTATIONS):
        if (folder / name).exists():
            raise TrainingError(
                f"{folder} holds a set already: {name}",
                hint="Name another folder, or remove this one.",
            )


def load_dataset(
    folder: Path, split: str | None = None, split_file: Path | None = None
) -> tuple[LabelledImage, ...]:
    """The entries of a stored set, in order; of one frozen split where it is named.

    The split is the set's own, unless `split_file` holds another.

    Raises:
        TrainingError: a table is absent (the set is unfinished), a row cannot be used, or the
            split is absent, empty, changed, or names images that the set does not hold.
    """
    entries = _load_all(folder)
    if split is None:
        return entries
    return select_split(folder, entries, splits.load_split(split_file or folder), split)


def select_split(
    folder: Path, entries: Sequence[LabelledImage], split: splits.Split, name: str
) -> tuple[LabelledImage, ...]:
    """Those of a set's entries that belong to one part of a frozen split, in the split's order.

    Raises:
        TrainingError: the part is absent or empty, or names images that the set does not hold.
    """
    by_id = {entry.image_id: entry for entry in entries}
    wanted = split.image_ids(name)
    if missing := [image_id for image_id in wanted if image_id not in by_id]:
        raise TrainingError(
            f"the split {name!r} names {missing[0]} and {len(missing) - 1} more that "
            f"{folder} does not hold"
            if missing[1:]
            else f"the split {name!r} names {missing[0]}, which {folder} does not hold"
        )
    return tuple(by_id[image_id] for image_id in wanted)


def _load_all(folder: Path) -> tuple[LabelledImage, ...]:
    for name in (IMAGES, ANNOTATIONS):
        if not (folder / name).is_file():
            raise TrainingError(
                f"{folder} holds no {name}: not a set, or its generation was cut short"
            )
    labels: dict[str, list[Label]] = {}
    with (folder / ANNOTATIONS).open(newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.DictReader(lines), start=2):
            if row["class_name"] == NO_FINDING:
                continue
            try:
                index = BY_NAME[row["class_name"]].index
                box = [float(row[k]) for k in ("x_min", "y_min", "x_max", "y_max")]
                weight = float(row.get("weight") or 1)
            except (KeyError, ValueError) as error:
                raise TrainingError(f"{folder}/annotations.csv, row {number}: {error}") from error
            labels.setdefault(row["image_id"], []).append(
                Label(index, box[0], box[1], box[2], box[3], weight)
            )
    with (folder / IMAGES).open(newline="", encoding="utf-8") as lines:
        entries = tuple(
            LabelledImage(
                image_id=row["image_id"],
                path=folder / "images" / f"{row['image_id']}.png",
                background=row["background"],
                unknown=frozenset(BY_SLUG[slug].index for slug in row["unknown"].split()),
                labels=tuple(labels.get(row["image_id"], ())),
                patient=row.get("patient_id") or "",
                facts={name: row[name] for name in FACTS if row.get(name)},
            )
            for row in csv.DictReader(lines)
        )
    if not entries:
        raise TrainingError(f"{folder} holds no image")
    return entries
