"""The quality of a data set as numbers: the quality report without its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.catalog import CATALOG
from training.data import agreement, image_checks, splits
from training.data.agreement import ClassAgreement
from training.data.tables import Tables

GRID: Final = 64
SIZE_EDGES: Final = np.geomspace(0.01, 1.0, 17)
_EXTENT: Final = 0.995  # Quantile of all boxes that stands for the image size if it is unknown.
_SHOWN: Final = 12


@dataclass(frozen=True, slots=True, eq=False)
class ClassQuality:
    """The quality of one class.

    `sizes` counts boxes over `SIZE_EDGES`, by the square root of the box's share of the image.
    `heat` is f64 (GRID, GRID), the sum of the weights of the boxes that cover each place.
    `single_reader_share` is the share of the findings that only one of several readers marked.
    `images_in` is the number of marked images per split.
    """

    name: str
    images: int
    boxes: int
    fused: int
    single_reader_share: float | None
    agreement: ClassAgreement
    images_in: dict[str, int]
    sizes: NDArray[np.int64]
    heat: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class QualityIssue:
    """A possible problem; `image_ids` are the first few images concerned."""

    description: str
    count: int
    image_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Quality:
    """The quality of a data set.

    `patients` is 0 if they are unknown. `sizes_known` is False if there are annotations only.
    """

    images: int
    patients: int
    sizes_known: bool
    classes: tuple[ClassQuality, ...]
    readers: pd.DataFrame
    facts: dict[str, pd.Series[int]]
    issues: tuple[QualityIssue, ...]
    rejected: pd.DataFrame


def measure_quality(tables: Tables) -> Quality:
    """Measure the quality of a data set from its tables."""
    images, fused = tables.images, tables.fused
    shares = _to_shares(tables)
    part_of = {image: name for name, ids in tables.split.images.items() for image in ids}
    reader_count = tables.readers.groupby("image_id")["rad_id"].nunique()
    several = fused["image_id"].map(reader_count).to_numpy() > 1
    classes = []
    for finding, agreed in zip(CATALOG, agreement.measure_agreement(tables.readers), strict=True):
        of_class = (fused["class_id"] == finding.index).to_numpy()
        marked = fused.loc[of_class, "image_id"].drop_duplicates()
        in_split = marked.map(part_of).value_counts()
        alone = fused.loc[of_class & several, "readers"] == 1
        extents = shares[of_class, 2:] - shares[of_class, :2]
        roots = np.sqrt(np.prod(extents, axis=1)).clip(SIZE_EDGES[0], SIZE_EDGES[-1])
        classes.append(
            ClassQuality(
                name=finding.name,
                images=len(marked),
                boxes=agreed.boxes,
                fused=int(of_class.sum()),
                single_reader_share=float(alone.mean()) if len(alone) else None,
                agreement=agreed,
                images_in={name: int(in_split.get(name, 0)) for name in splits.NAMES},
                sizes=np.histogram(roots, SIZE_EDGES)[0],
                heat=_sum_heat(shares[of_class], fused.loc[of_class, "weight"].to_numpy(float)),
            )
        )
    patients = images.loc[images["patient_id"] != "", "patient_id"].nunique()
    return Quality(
        images=len(images),
        patients=patients,
        sizes_known=tables.has_images,
        classes=tuple(classes),
        readers=_summarise_readers(tables.readers),
        facts=_count_facts(images),
        issues=tuple(_find_issues(tables, classes, reader_count, part_of)),
        rejected=tables.rejected,
    )


def _to_shares(tables: Tables) -> NDArray[np.float64]:
    """Return the fused boxes as shares of their image, f64 (N, 4)."""
    corners = tables.fused[["x_min", "y_min", "x_max", "y_max"]].to_numpy(float)
    if not len(corners):
        return corners
    sizes = tables.images.set_index("image_id")[["columns", "rows"]].astype(float)
    whole = sizes.reindex(tables.fused["image_id"]).to_numpy()
    usual = np.quantile(corners[:, 2:], _EXTENT, axis=0)
    whole = np.where(whole > 0, whole, usual)
    return np.asarray((corners / np.tile(whole, 2)).clip(0, 1))


def _sum_heat(shares: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    heat = np.zeros((GRID, GRID))
    low = np.floor(shares[:, :2] * GRID).astype(int)
    high = np.ceil(shares[:, 2:] * GRID).astype(int)
    for (x, y), (x_end, y_end), weight in zip(low, high, weights, strict=True):
        heat[y:y_end, x:x_end] += weight
    return heat


def _summarise_readers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return per reader: images read, images marked and their share, boxes."""
    boxes = rows[rows["class_id"] < len(CATALOG)]
    table = pd.DataFrame(
        {
            "images": rows.groupby("rad_id")["image_id"].nunique(),
            "marked": boxes.groupby("rad_id")["image_id"].nunique(),
            "boxes": boxes.groupby("rad_id").size(),
        }
    ).fillna(0)
    table["share"] = table["marked"] / table["images"]
    return table.astype({"images": int, "marked": int, "boxes": int}).sort_values(
        "images", ascending=False
    )


def _count_facts(images: pd.DataFrame) -> dict[str, pd.Series[int]]:
    """Count sex, age (by decades), view, manufacturer, photometric and size, where known."""
    found: dict[str, pd.Series[int]] = {}
    ages = pd.to_numeric(images["age"], errors="coerce")
    decades = (ages // 10 * 10).dropna().astype(int).astype(str) + "s"
    sizes = images["original_columns"].astype(str) + " x " + images["original_rows"].astype(str)
    columns = {
        "sex": images["sex"],
        "age": decades,
        "view": images["view"],
        "manufacturer": images["manufacturer"],
        "photometric": images["photometric"],
        "columns x rows": sizes[images["rows"] > 0],
    }
    for name, values in columns.items():
        known = values[values != ""]
        if len(known):
            counts = known.value_counts()
            found[name] = (counts.sort_index() if name == "age" else counts).head(_SHOWN)
    return found


def _find_issues(
    tables: Tables,
    classes: Sequence[ClassQuality],
    reader_count: pd.Series[int],
    part_of: dict[str, str],
) -> list[QualityIssue]:
    found = []
    for flag, meaning in image_checks.FLAGS.items():
        shown = [flag in flags.split() for flags in tables.images["flags"]]
        found += _make_issue(meaning, tables.images.loc[shown, "image_id"].tolist())
    usual = reader_count.mode().to_numpy(int)[0]
    odd = reader_count.index[reader_count != usual].tolist()
    found += _make_issue(f"not read by {usual} readers as the others are", odd)
    rows = tables.readers.groupby(["image_id", "rad_id"])["class_id"]
    both = (rows.max() == len(CATALOG)) & (rows.min() < len(CATALOG))
    contradictory = sorted({str(image_id) for image_id, _ in both.index[both]})
    found += _make_issue("a reader has given both 'No finding' and a finding", contradictory)
    across: list[str] = []
    within: list[str] = []
    for first, second in _find_near_duplicates(tables.images):
        (within if part_of.get(first) == part_of.get(second) else across).extend((first, second))
    found += _make_issue("near-duplicates in two different splits", across)
    found += _make_issue("near-duplicates in one split", within)
    for of_class in classes:
        absent = [name for name, count in of_class.images_in.items() if not count]
        if absent:
            where = "anywhere" if len(absent) == len(splits.NAMES) else f"in {' and '.join(absent)}"
            found.append(QualityIssue(f"{of_class.name} is not marked {where}", 0))
    return found


def _make_issue(description: str, ids: Sequence[str]) -> list[QualityIssue]:
    return [QualityIssue(description, len(ids), tuple(ids[:_SHOWN]))] if ids else []


def _find_near_duplicates(images: pd.DataFrame) -> list[tuple[str, str]]:
    hashed = images[images["fingerprint"] != ""]
    ids = hashed["image_id"].tolist()
    pairs = image_checks.find_near_duplicates(hashed["fingerprint"].tolist())
    return [(ids[first], ids[second]) for first, second, _ in pairs]
