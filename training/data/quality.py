"""What a set looks like, as numbers: the quality report's content without its pictures."""

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
_EXTENT: Final = 0.995  # of all boxes, where no picture says how large it is
_SHOWN: Final = 12


@dataclass(frozen=True, slots=True, eq=False)
class ClassQuality:
    """One class.

    `sizes`: counts over `SIZE_EDGES` of the root of the box's share of the picture. `heat`: f64
    (GRID, GRID), how much of the readers' agreement covers each place. `alone`: share of the
    findings that one reader of several marked alone. `images_in`: marked images per split.
    """

    name: str
    images: int
    boxes: int
    fused: int
    alone: float | None
    agreement: ClassAgreement
    images_in: dict[str, int]
    sizes: NDArray[np.int64]
    heat: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class QualityIssue:
    """Something to look at; `image_ids` are the first few it is about."""

    what: str
    count: int
    image_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Quality:
    """All of it; `patients` and `sizes_known` say what the set knows."""

    images: int
    patients: int
    sizes_known: bool
    classes: tuple[ClassQuality, ...]
    readers: pd.DataFrame
    facts: dict[str, pd.Series[int]]
    concerns: tuple[QualityIssue, ...]
    rejected: pd.DataFrame


def measure_quality(tables: Tables) -> Quality:
    """Look at a set's tables."""
    images, fused = tables.images, tables.fused
    shares = _shares(tables)
    side = {image: name for name, ids in tables.split.images.items() for image in ids}
    asked = tables.readers.groupby("image_id")["rad_id"].nunique()
    several = fused["image_id"].map(asked).to_numpy() > 1
    classes = []
    for finding, agreed in zip(CATALOG, agreement.measure_agreement(tables.readers), strict=True):
        of_class = (fused["class_id"] == finding.index).to_numpy()
        marked = fused.loc[of_class, "image_id"].drop_duplicates()
        in_split = marked.map(side).value_counts()
        alone = fused.loc[of_class & several, "readers"] == 1
        extents = shares[of_class, 2:] - shares[of_class, :2]
        roots = np.sqrt(np.prod(extents, axis=1)).clip(SIZE_EDGES[0], SIZE_EDGES[-1])
        classes.append(
            ClassQuality(
                name=finding.name,
                images=len(marked),
                boxes=agreed.boxes,
                fused=int(of_class.sum()),
                alone=float(alone.mean()) if len(alone) else None,
                agreement=agreed,
                images_in={name: int(in_split.get(name, 0)) for name in splits.NAMES},
                sizes=np.histogram(roots, SIZE_EDGES)[0],
                heat=_heat(shares[of_class], fused.loc[of_class, "weight"].to_numpy(float)),
            )
        )
    patients = images.loc[images["patient_id"] != "", "patient_id"].nunique()
    return Quality(
        images=len(images),
        patients=patients,
        sizes_known=tables.pictured,
        classes=tuple(classes),
        readers=_readers(tables.readers),
        facts=_facts(images),
        concerns=tuple(_concerns(tables, classes, asked, side)),
        rejected=tables.rejected,
    )


def _shares(tables: Tables) -> NDArray[np.float64]:
    """Fused boxes (N, 4) as shares of their picture."""
    corners = tables.fused[["x_min", "y_min", "x_max", "y_max"]].to_numpy(float)
    if not len(corners):
        return corners
    sizes = tables.images.set_index("image_id")[["columns", "rows"]].astype(float)
    whole = sizes.reindex(tables.fused["image_id"]).to_numpy()
    usual = np.quantile(corners[:, 2:], _EXTENT, axis=0)
    whole = np.where(whole > 0, whole, usual)
    return np.asarray((corners / np.tile(whole, 2)).clip(0, 1))


def _heat(shares: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    heat = np.zeros((GRID, GRID))
    low = np.floor(shares[:, :2] * GRID).astype(int)
    high = np.ceil(shares[:, 2:] * GRID).astype(int)
    for (x, y), (x_end, y_end), weight in zip(low, high, weights, strict=True):
        heat[y:y_end, x:x_end] += weight
    return heat


def _readers(rows: pd.DataFrame) -> pd.DataFrame:
    """Per reader: images read, share of them with a finding, boxes."""
    drawn = rows[rows["class_id"] < len(CATALOG)]
    table = pd.DataFrame(
        {
            "images": rows.groupby("rad_id")["image_id"].nunique(),
            "marked": drawn.groupby("rad_id")["image_id"].nunique(),
            "boxes": drawn.groupby("rad_id").size(),
        }
    ).fillna(0)
    table["share"] = table["marked"] / table["images"]
    return table.astype({"images": int, "marked": int, "boxes": int}).sort_values(
        "images", ascending=False
    )


def _facts(images: pd.DataFrame) -> dict[str, pd.Series[int]]:
    """Counts of what is known of sex, age (by decades), view, manufacturer, photometric, size."""
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


def _concerns(
    tables: Tables,
    classes: Sequence[ClassQuality],
    asked: pd.Series[int],
    side: dict[str, str],
) -> list[QualityIssue]:
    found = []
    for flag, meaning in image_checks.FLAGS.items():
        shown = [flag in flags.split() for flags in tables.images["flags"]]
        found += _concern(meaning, tables.images.loc[shown, "image_id"].tolist())
    usual = asked.mode().to_numpy(int)[0]
    odd = asked.index[asked != usual].tolist()
    found += _concern(f"not read by {usual} readers as the others are", odd)
    said = tables.readers.groupby(["image_id", "rad_id"])["class_id"]
    both = (said.max() == len(CATALOG)) & (said.min() < len(CATALOG))
    torn = sorted({str(image_id) for image_id, _ in both.index[both]})
    found += _concern("a reader says both 'No finding' and a finding", torn)
    across: list[str] = []
    within: list[str] = []
    for one, other in _alike(tables.images):
        (within if side.get(one) == side.get(other) else across).extend((one, other))
    found += _concern("all but the same picture in two different splits", across)
    found += _concern("all but the same picture twice, in one split", within)
    for of_class in classes:
        absent = [name for name, count in of_class.images_in.items() if not count]
        if absent:
            where = "anywhere" if len(absent) == len(splits.NAMES) else f"in {' and '.join(absent)}"
            found.append(QualityIssue(f"{of_class.name} is not marked {where}", 0))
    return found


def _concern(what: str, ids: Sequence[str]) -> list[QualityIssue]:
    return [QualityIssue(what, len(ids), tuple(ids[:_SHOWN]))] if ids else []


def _alike(images: pd.DataFrame) -> list[tuple[str, str]]:
    printed = images[images["fingerprint"] != ""]
    ids = printed["image_id"].tolist()
    pairs = image_checks.find_near_duplicates(printed["fingerprint"].tolist())
    return [(ids[one], ids[other]) for one, other, _ in pairs]
