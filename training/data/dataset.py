"""A data set on disk: PNG images, boxes in VinDr-CXR's columns, facts per image.

images/<image_id>.png   u8 grey
annotations.csv         image_id, class_name, class_id, x_min, y_min, x_max, y_max in pixels of the
                        stored image; `weight`, `readers` where readers' boxes were fused
images.csv              image_id, background, unknown (slugs, separated by spaces); where known
                        rows, columns, patient_id, sex, age (years), view, manufacturer, photometric
split.json              image ids per split (`training.data.splits`), once the set is divided

An imported set also keeps every reader's own boxes (readers.csv), what was left out (rejected.csv)
and report.html; see `training.data.tables`.
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
    """One stored image with its labels.

    `unknown` are the classes that the image may show without a label; their absence must not be
    learnt. `patient` is "" where the patient is unknown. `facts` holds what is known of sex, age,
    view, manufacturer and photometric, by these names.
    """

    image_id: str
    path: Path
    background: str
    unknown: frozenset[int]
    labels: tuple[Label, ...]
    patient: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    def read_pixels(self) -> NDArray[np.uint8]:
        """Read the image, u8 (H, W).

        Raises:
            TrainingError: the file is absent or is no image.
        """
        pixels = cv2.imread(str(self.path), cv2.IMREAD_GRAYSCALE)
        if pixels is None:
            raise TrainingError(f"cannot read the image {self.path}")
        return np.asarray(pixels, np.uint8)


def refuse_existing_dataset(folder: Path) -> None:
    """Refuse to write into a finished data set, because its tables would label other images.

    Raises:
        TrainingError: the folder holds a data set's table.
    """
    for name in (IMAGES, ANNOTATIONS):
        if (folder / name).exists():
            raise TrainingError(
                f"{folder} holds a data set already: {name}",
                hint="Name another folder, or remove this one.",
            )


def load_dataset(
    folder: Path, split: str | None = None, split_file: Path | None = None
) -> tuple[LabelledImage, ...]:
    """Load the images of a stored data set, in order.

    Args:
        folder: the data set.
        split: name of the frozen split to load; None loads all images.
        split_file: file of the frozen split; None means the data set's own.

    Returns:
        The images with their labels.

    Raises:
        TrainingError: a table is absent (the data set is unfinished), a row cannot be used, or the
            split is absent, empty, changed, or names images that the data set does not hold.
    """
    images = _load_all(folder)
    if split is None:
        return images
    return select_split(folder, images, splits.load_split(split_file or folder), split)


def select_split(
    folder: Path, images: Sequence[LabelledImage], split: splits.Split, name: str
) -> tuple[LabelledImage, ...]:
    """Select the images of one part of a frozen split.

    Args:
        folder: the data set, for the error message.
        images: its images.
        split: the frozen split.
        name: the part: train, valid or test.

    Returns:
        The part's images, in the split's order.

    Raises:
        TrainingError: the part is absent or empty, or names images that the data set does not
            hold.
    """
    by_id = {image.image_id: image for image in images}
    ids = split.image_ids(name)
    if missing := [image_id for image_id in ids if image_id not in by_id]:
        raise TrainingError(
            f"the split {name!r} names {missing[0]} and {len(missing) - 1} more that "
            f"{folder} does not hold"
            if missing[1:]
            else f"the split {name!r} names {missing[0]}, which {folder} does not hold"
        )
    return tuple(by_id[image_id] for image_id in ids)


def _load_all(folder: Path) -> tuple[LabelledImage, ...]:
    for name in (IMAGES, ANNOTATIONS):
        if not (folder / name).is_file():
            raise TrainingError(
                f"{folder} holds no {name}: it is no data set, or its generation was interrupted"
            )
    labels = _load_labels(folder)
    with (folder / IMAGES).open(newline="", encoding="utf-8") as lines:
        images = tuple(
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
    if not images:
        raise TrainingError(f"{folder} holds no image")
    return images


def _load_labels(folder: Path) -> dict[str, list[Label]]:
    """Return the labels of the annotation table by image id."""
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
    return labels
