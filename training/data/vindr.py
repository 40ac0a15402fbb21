"""Annotation tables in VinDr-CXR's layout, checked row by row.

A table has one row per box that a reader drew, or one "No finding" row per reader who drew none:
image_id, class_name, rad_id, x_min, y_min, x_max, y_max (pixels of the original image), and
optionally class_id. The table of the training set has 67,914 rows, 15,000 images and three readers
for each (Nguyen et al., Scientific Data 2022). That is `train.csv` of the VinBigData challenge. The
`annotations_train.csv` of PhysioNet names eight more findings, which the catalogue does not have.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaErrors

from hilum.catalog import BY_NAME, CATALOG
from training.data.dataset import NO_FINDING
from training.errors import TrainingError

BOX: Final = ["x_min", "y_min", "x_max", "y_max"]
COLUMNS: Final = ("image_id", "class_name", "rad_id", *BOX)
REJECTED: Final = ("source", "row", "image_id", "why")
SMALLEST_SIDE: Final = 2.0
"""Pixels of the original image: a smaller box cannot enclose a finding."""

_LISTED_ROWS: Final = 5
_UNKNOWN: Final = "an unknown class"


@dataclass(frozen=True, slots=True, eq=False)
class Annotations:
    """The usable rows of a table, and the others with the reason.

    `rows`: image_id, class_name, class_id (14 for "No finding"), rad_id, the box (f64, NaN where
    there is none) and `row`, the line in the file. `rejected`: source, row, image_id, why.
    """

    source: str
    rows: pd.DataFrame
    rejected: pd.DataFrame


def _has_finding(table: pd.DataFrame) -> pd.Series[bool]:
    return table["class_name"] != NO_FINDING


def _is_complete(table: pd.DataFrame) -> pd.Series[bool]:
    return ~_has_finding(table) | table[BOX].notna().all(axis=1)


def _has_no_box(table: pd.DataFrame) -> pd.Series[bool]:
    return _has_finding(table) | table[BOX].isna().all(axis=1)


def _is_upright(table: pd.DataFrame) -> pd.Series[bool]:
    # A comparison with NaN is False, so rows without a box do not count as inverted.
    return ~((table["x_max"] <= table["x_min"]) | (table["y_max"] <= table["y_min"]))


def _is_large_enough(table: pd.DataFrame) -> pd.Series[bool]:
    sides = table["x_max"] - table["x_min"], table["y_max"] - table["y_min"]
    thin = [(side > 0) & (side < SMALLEST_SIDE) for side in sides]
    return ~(thin[0] | thin[1])


def _begins_inside(table: pd.DataFrame) -> pd.Series[bool]:
    return ~((table["x_min"] < 0) | (table["y_min"] < 0))


def _has_matching_class(table: pd.DataFrame) -> pd.Series[bool]:
    expected = table["class_name"].map(_class_index).astype("float64")
    return expected.isna() | (expected == pd.to_numeric(table["class_id"], errors="coerce"))


def _class_index(name: str) -> int | None:
    return len(CATALOG) if name == NO_FINDING else BY_NAME[name].index if name in BY_NAME else None


# An id becomes a file name, so it must not point out of the folder.
_SAFE_ID: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"

_SCHEMA: Final = pa.DataFrameSchema(
    {
        "image_id": pa.Column(
            checks=pa.Check.str_matches(
                _SAFE_ID, error="the image_id is not valid (letters, digits, dot, dash, underscore)"
            )
        ),
        "class_name": pa.Column(checks=pa.Check.isin([*BY_NAME, NO_FINDING], error=_UNKNOWN)),
        "rad_id": pa.Column(checks=pa.Check.str_length(min_value=1, error="no reader is named")),
        **{name: pa.Column(float, nullable=True) for name in BOX},
    },
    checks=[
        pa.Check(_is_complete, error="the box is not four numbers"),
        pa.Check(_has_no_box, error="'No finding' has a box"),
        pa.Check(_is_upright, error="the box is inverted or empty"),
        pa.Check(_is_large_enough, error=f"the box has a side under {SMALLEST_SIDE:.0f} pixels"),
        pa.Check(_begins_inside, error="the box begins outside of the image"),
        pa.Check(_has_matching_class, error="class_id and class_name contradict each other"),
    ],
)


def read_annotations(path: Path, *, skip_bad: bool = False) -> Annotations:
    """Read and check a table, also a gzipped one.

    Args:
        path: the CSV file.
        skip_bad: leave out rows that cannot be used, and list them as rejected.

    Returns:
        The usable rows and the rejected ones.

    Raises:
        TrainingError: the file cannot be read, lacks a column, or no usable row is left; without
            `skip_bad` also where any row cannot be used. The message names file and row.
    """
    table = _read_table(path)
    why = _find_faults(table)
    # A repeated row of one reader would only double the reader's weight.
    twice = table.duplicated(["image_id", "rad_id", "class_name", *BOX])
    for index in table.index[twice & ~table.index.isin(list(why))]:
        why[index] = "the same reader has given this row before"
    bad = table.loc[list(why)]
    rejected = pd.DataFrame(
        {
            "source": path.name,
            "row": bad["row"],
            "image_id": bad["image_id"],
            "why": list(why.values()),
        }
    ).sort_values("row", ignore_index=True)
    if len(rejected) and not skip_bad:
        raise TrainingError(describe_rejected(str(path), rejected), hint=_make_hint(rejected))
    rows = table.drop(index=list(why)).reset_index(drop=True)
    if rows.empty:
        raise TrainingError(f"{path} holds no row that can be used")
    rows["class_id"] = rows["class_name"].map(_class_index).astype("int64")
    return Annotations(path.name, rows, rejected)


SKIP_HINT: Final = (
    "Correct them, or leave them out with --skip-bad: the report lists what was left out."
)


_CLASSES_HINT: Final = (
    f"The classes are {', '.join(BY_NAME)} and {NO_FINDING!r}, as in the VinBigData challenge's "
    "train.csv; PhysioNet's annotations_train.csv has eight more."
)


def _make_hint(rejected: pd.DataFrame) -> str:
    unknown = rejected["why"].str.startswith(_UNKNOWN).any()
    return f"{SKIP_HINT} {_CLASSES_HINT}" if unknown else SKIP_HINT


def describe_rejected(what: str, rejected: pd.DataFrame) -> str:
    """Return a message with the first rejected row in full and the number of others."""
    first = rejected.iloc[0]
    message = f"{what}, row {first['row']}: {first['why']}"
    if more := len(rejected) - 1:
        others = ", ".join(str(row) for row in rejected["row"].iloc[1 : 1 + _LISTED_ROWS])
        dots = ", ..." if more > _LISTED_ROWS else ""
        message += f"; {more} more rows cannot be used (rows {others}{dots})"
    return message


def _read_table(path: Path) -> pd.DataFrame:
    try:
        # As text, because an id such as 000012 or NA must stay as it is. With blank lines, so that
        # the number of a row is that of its line.
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise TrainingError(f"cannot read {path}: {error}") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas took the first fields for row names.
        raise TrainingError(f"{path} has more fields in its rows than in its header")
    if missing := [name for name in COLUMNS if name not in table.columns]:
        raise TrainingError(
            f"{path} lacks the columns {', '.join(missing)}",
            hint=f"An annotation table has the columns {', '.join(COLUMNS)}.",
        )
    kept = [*COLUMNS, "class_id"] if "class_id" in table.columns else [*COLUMNS]
    table["row"] = table.index + 2  # the header is row 1
    table = table.loc[(table[kept] != "").any(axis=1), [*kept, "row"]].copy()
    if "class_id" not in table.columns:
        table["class_id"] = table["class_name"].map(_class_index)
    for name in BOX:
        numbers = pd.to_numeric(table[name], errors="coerce").astype("float64")
        table[name] = numbers.where(np.isfinite(numbers))
    return table


def _find_faults(table: pd.DataFrame) -> dict[int, str]:
    """Return the index of each row that breaks the schema, with the first reason."""
    try:
        _SCHEMA.validate(table, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases.dropna(subset=["index"])
        cases = cases.drop_duplicates("index").sort_values("index")
        faults = dict(zip(cases["index"].astype(int), cases["check"], strict=True))
        return {
            index: f"{why}: {table.at[index, 'class_name']!r}" if why == _UNKNOWN else why
            for index, why in faults.items()
        }
    return {}
