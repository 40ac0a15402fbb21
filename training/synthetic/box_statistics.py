"""Statistics of radiologists' boxes: aggregates of the VinDr-CXR training annotations.

The table (67,914 rows; Nguyen et al., Scientific Data 2022; mirrored by torchxrayvision as
`vinbigdata-train.csv.gz`) has boxes in pixels but no image sizes. So positions are measured
relative to the patient: the readers' boxes of the aortic knob and the heart give a *thorax frame*,
with the midline, the level of the knob, the level of the heart's centre and the heart's width.
Images without both boxes get the median frame, which blurs their positions by the spread of image
sizes. Only aggregates are stored, never a row.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.catalog import BY_NAME, CATALOG
from training.data.atomic_files import replace_files
from training.errors import TrainingError

SHIPPED: Final = Path(__file__).with_name("box_statistics.json")
HEART_OF_THORAX: Final = 0.57
"""Assumed cardiothoracic ratio of marked hearts; converts their widths to thorax widths."""

CENTRE_EDGES: Final = np.linspace(-0.75, 0.75, 25), np.linspace(-1.25, 2.75, 33)
SIZE_EDGES: Final = np.geomspace(0.02, 1.4, 15), np.geomspace(0.03, 4.5, 17)

_COLUMNS: Final = ("image_id", "class_name", "x_min", "y_min", "x_max", "y_max")


@dataclass(frozen=True, slots=True)
class ClassStatistics:
    """Frequency, positions and sizes of one class.

    Coordinates are those of the thorax frame: u is horizontal, in thorax widths from the midline
    (positive to the right of the image); v is vertical, in knob-to-heart distances below the knob.
    `centres` and `sizes` are joint histograms over (u, v) and (width in u, height in v), each
    summing to 1.
    """

    image_frequency: float
    boxes: int
    centres: NDArray[np.float64]
    sizes: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BoxStatistics:
    """All classes in the catalogue's order; `together[i, j]` is P(j marked | i marked)."""

    images: int
    classes: tuple[ClassStatistics, ...]
    together: NDArray[np.float64]

    def sample(self, index: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
        """Sample a box of a class: centre u, centre v, width in u, height in v."""
        of_class = self.classes[index]
        u, v = _sample_cell(of_class.centres, CENTRE_EDGES, rng)
        width, height = _sample_cell(of_class.sizes, SIZE_EDGES, rng)
        return u, v, width, height


def _sample_cell(
    histogram: NDArray[np.float64],
    edges: tuple[NDArray[np.float64], NDArray[np.float64]],
    rng: np.random.Generator,
) -> tuple[float, float]:
    cell = int(rng.choice(histogram.size, p=histogram.ravel() / histogram.sum()))
    row, column = divmod(cell, histogram.shape[1])
    return (
        float(rng.uniform(edges[0][row], edges[0][row + 1])),
        float(rng.uniform(edges[1][column], edges[1][column + 1])),
    )


def measure_statistics(annotations: Path) -> BoxStatistics:
    """Aggregate an annotation table.

    Args:
        annotations: CSV (also gzipped) with the columns of VinDr-CXR's train.csv.

    Raises:
        TrainingError: the file cannot be read, lacks a column or names an unknown class.
    """
    try:
        table = pd.read_csv(annotations, dtype={"image_id": str})
    except (OSError, ValueError) as error:
        raise TrainingError(f"cannot read {annotations}: {error}") from error
    if missing := [name for name in _COLUMNS if name not in table.columns]:
        raise TrainingError(f"{annotations} lacks the columns {missing}")
    images = int(table["image_id"].nunique())
    boxes = table[table["class_name"] != "No finding"]
    if unknown := sorted(set(boxes["class_name"]) - set(BY_NAME)):
        raise TrainingError(f"{annotations} names unknown classes: {unknown}")
    if boxes.empty:
        raise TrainingError(f"{annotations} holds no box")
    boxes = boxes.assign(index=boxes["class_name"].map({n: f.index for n, f in BY_NAME.items()}))
    framed = _to_thorax_frame(boxes)
    marked = np.zeros((boxes["image_id"].nunique(), len(CATALOG)))
    marked[pd.factorize(boxes["image_id"])[0], boxes["index"]] = 1
    both = marked.T @ marked
    return BoxStatistics(
        images=images,
        classes=tuple(
            _aggregate_class(framed[framed["index"] == f.index], images) for f in CATALOG
        ),
        together=both / np.maximum(np.diag(both)[:, None], 1),
    )


def _to_thorax_frame(boxes: pd.DataFrame) -> pd.DataFrame:
    centred = boxes.assign(
        x=(boxes["x_min"] + boxes["x_max"]) / 2,
        y=(boxes["y_min"] + boxes["y_max"]) / 2,
        width=boxes["x_max"] - boxes["x_min"],
        height=boxes["y_max"] - boxes["y_min"],
    )
    sizes = ["x", "y", "width", "height"]
    medians = centred.groupby(["image_id", "index"])[sizes].median()
    of_class = medians.index.get_level_values("index")
    aorta = medians[of_class == BY_NAME["Aortic enlargement"].index].droplevel("index")
    heart = medians[of_class == BY_NAME["Cardiomegaly"].index].droplevel("index")
    frame = pd.DataFrame(
        {
            # The marked knob is left of the patient's midline; the heart is slightly left of it.
            "middle": 0.5 * (aorta["x"] - 0.25 * aorta["width"])
            + 0.5 * (heart["x"] - 0.08 * heart["width"]),
            "thorax": heart["width"] / HEART_OF_THORAX,
            "knob": aorta["y"],
            "drop": heart["y"] - aorta["y"],
        }
    ).dropna()
    frame = frame[frame["drop"] > 0.1 * frame["thorax"]]
    if frame.empty:
        raise TrainingError("no image has boxes of both aorta and heart: no frame to measure in")
    framed = centred.join(frame, on="image_id")
    framed = framed.fillna(frame.median().to_dict())
    return pd.DataFrame(
        {
            "image_id": framed["image_id"],
            "index": framed["index"],
            "u": (framed["x"] - framed["middle"]) / framed["thorax"],
            "v": (framed["y"] - framed["knob"]) / framed["drop"],
            "width": framed["width"] / framed["thorax"],
            "height": framed["height"] / framed["drop"],
        }
    )


def _aggregate_class(framed: pd.DataFrame, images: int) -> ClassStatistics:
    def histogram(
        columns: tuple[str, str], edges: tuple[NDArray[np.float64], NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        first, second = (
            np.clip(framed[name].to_numpy(float), side[0], side[-1])
            for name, side in zip(columns, edges, strict=True)
        )
        counts = np.histogram2d(first, second, bins=edges)[0]
        return counts / counts.sum() if counts.sum() else np.full(counts.shape, 1 / counts.size)

    return ClassStatistics(
        image_frequency=framed["image_id"].nunique() / images,
        boxes=len(framed),
        centres=histogram(("u", "v"), CENTRE_EDGES),
        sizes=histogram(("width", "height"), SIZE_EDGES),
    )


def save_statistics(statistics: BoxStatistics, path: Path) -> None:
    """Write as JSON; histograms are flat, row by row, in parts per ten thousand.

    Raises:
        TrainingError: the disk cannot be written; the previous file is unchanged.
    """

    def flat(histogram: NDArray[np.float64]) -> list[int]:
        return [round(1e4 * value) for value in histogram.ravel().tolist()]

    document: dict[str, Any] = {
        "source": "VinDr-CXR training annotations (torchxrayvision, vinbigdata-train.csv.gz)",
        "images": statistics.images,
        "together": [[round(v, 3) for v in row] for row in statistics.together.tolist()],
        "classes": {
            finding.slug: {
                "image_frequency": round(of_class.image_frequency, 5),
                "boxes": of_class.boxes,
                "centres": flat(of_class.centres),
                "sizes": flat(of_class.sizes),
            }
            for finding, of_class in zip(CATALOG, statistics.classes, strict=True)
        },
    }
    with replace_files(path.parent) as place:
        place(path.name).write_text(json.dumps(document) + "\n", encoding="utf-8")


def load_statistics(path: Path = SHIPPED) -> BoxStatistics:
    """Load statistics, by default the aggregates shipped beside this module."""
    document = json.loads(path.read_text(encoding="utf-8"))

    def histogram(
        values: list[int], edges: tuple[NDArray[np.float64], NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        counts = np.asarray(values, float).reshape(len(edges[0]) - 1, len(edges[1]) - 1)
        return np.asarray(counts / counts.sum())

    classes = [document["classes"][finding.slug] for finding in CATALOG]
    return BoxStatistics(
        images=document["images"],
        classes=tuple(
            ClassStatistics(
                image_frequency=entry["image_frequency"],
                boxes=entry["boxes"],
                centres=histogram(entry["centres"], CENTRE_EDGES),
                sizes=histogram(entry["sizes"], SIZE_EDGES),
            )
            for entry in classes
        ),
        together=np.asarray(document["together"], float),
    )
