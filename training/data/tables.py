"""The tables of an imported data set, read and written together.

images.csv       one row per ingested image: `IMAGES`
readers.csv      each reader's rows, in pixels of the stored image; "No finding" rows included
annotations.csv  the same after fusion: `fusion.COLUMNS`
rejected.csv     what was left out: file, row (0 for a whole image), image_id, why
split.json       `splits`
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from training.data import splits
from training.data.atomic_files import replace_files
from training.data.splits import Split
from training.errors import TrainingError

IMAGES: Final = (
    "image_id",
    "rows",
    "columns",
    "original_rows",
    "original_columns",
    "patient_id",
    "sex",
    "age",
    "view",
    "manufacturer",
    "photometric",
    "background",
    "unknown",
    "flags",
    "fingerprint",
)
READERS: Final = (
    "image_id",
    "class_name",
    "class_id",
    "rad_id",
    "x_min",
    "y_min",
    "x_max",
    "y_max",
)
IMAGES_FOLDER: Final = "images"
REPORT: Final = "report.html"


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """All tables of a data set, and its split."""

    images: pd.DataFrame
    readers: pd.DataFrame
    fused: pd.DataFrame
    rejected: pd.DataFrame
    split: Split

    @property
    def has_images(self) -> bool:
        """True if the data set has images, False if it has annotations only."""
        return bool((self.images["rows"] > 0).any())


def write_tables(tables: Tables, folder: Path, report: str) -> None:
    """Replace all tables, the split and the report of a data set together.

    Args:
        tables: the tables and the split.
        folder: the data set.
        report: the quality report, HTML.

    Raises:
        TrainingError: the disk cannot be written; nothing has been replaced.
    """
    with replace_files(folder) as place:
        tables.images[list(IMAGES)].to_csv(place("images.csv"), index=False)
        tables.readers[list(READERS)].to_csv(place("readers.csv"), index=False)
        tables.fused.to_csv(place("annotations.csv"), index=False)
        tables.rejected.to_csv(place("rejected.csv"), index=False)
        splits.save_split(tables.split, place(splits.FILE))
        place(REPORT).write_text(report, encoding="utf-8")


def read_tables(folder: Path, *, divided: bool = True) -> Tables:
    """Read the tables of an imported data set.

    Args:
        folder: the data set.
        divided: require a split; False reads an absent split as an empty one.

    Returns:
        The tables and the split.

    Raises:
        TrainingError: a table or the split is absent or cannot be read.
    """
    frames = []
    for name in ("images.csv", "readers.csv", "annotations.csv", "rejected.csv"):
        try:
            frames.append(
                pd.read_csv(folder / name, dtype=_TYPES, keep_default_na=False, na_values=[])
            )
        except (OSError, ValueError) as error:
            raise TrainingError(
                f"cannot read {folder / name}: {error}",
                hint="Make the data set with `hilum-train data vindr`.",
            ) from error
    for frame in frames[1:3]:
        for name in ("x_min", "y_min", "x_max", "y_max"):
            frame[name] = pd.to_numeric(frame[name], errors="coerce")
    absent = not divided and not (folder / splits.FILE).exists()
    images, readers, fused, rejected = frames
    return Tables(
        images, readers, fused, rejected, Split(0, {}) if absent else splits.load_split(folder)
    )


_TYPES: Final = dict.fromkeys(
    set(IMAGES) - {"rows", "columns", "original_rows", "original_columns"} | {"rad_id", "source"},
    str,
)
