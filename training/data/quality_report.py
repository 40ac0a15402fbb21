"""The quality report: one HTML file without external resources."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from hilum.catalog import CATALOG
from training.data import quality
from training.data.quality import Quality, QualityIssue
from training.data.tables import IMAGES_FOLDER, Tables

_SIDE: Final = 300
_THUMBNAIL: Final = 120
_REJECTED: Final = 15
_COLOURS: Final = (
    "#ffb000",
    "#648fff",
    "#dc267f",
    "#fe6100",
    "#785ef0",
)  # Told apart by colour-blind readers too.

_TEMPLATES: Final = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
)


@dataclass(frozen=True, slots=True)
class Example:
    """One image with its readers' boxes; `uri` is a data URI."""

    name: str
    image_id: str
    uri: str
    readers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Reason:
    """The rows left out for one reason: their number and the first of them."""

    why: str
    count: int
    rows: tuple[dict[str, str], ...]


def render_report(tables: Tables, folder: Path) -> str:
    """Render the report on a data set as HTML.

    Args:
        tables: the tables of the data set.
        folder: the data set; its images become examples.
    """
    measured = quality.measure_quality(tables)
    return _TEMPLATES.get_template("quality.html.j2").render(
        quality=measured,
        split=tables.split,
        boxes=sum(of_class.boxes for of_class in measured.classes),
        fused=len(tables.fused),
        most=max(1, *(of_class.images for of_class in measured.classes)),
        heats=[_render_heat_map(of_class.heat) for of_class in measured.classes],
        size_labels=[f"{100 * edge:.0f}%" for edge in (quality.SIZE_EDGES[0], 0.1, 1.0)],
        examples=_make_examples(tables, folder / IMAGES_FOLDER),
        issues=[
            (issue, _make_thumbnails(issue, folder / IMAGES_FOLDER)) for issue in measured.issues
        ],
        reasons=_group_rejected(measured),
    )


def _to_data_uri(pixels: NDArray[np.uint8], suffix: str, *options: int) -> str:
    encoded = cv2.imencode(suffix, pixels, list(options))[1].tobytes()
    kind = {".png": "png", ".jpg": "jpeg"}[suffix]
    return f"data:image/{kind};base64,{b64encode(encoded).decode()}"


def _render_heat_map(heat: NDArray[np.float64]) -> str:
    grey = np.round(255 * heat / max(heat.max(), 1e-9)).astype(np.uint8)
    return _to_data_uri(np.asarray(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), np.uint8), ".png")


def _make_examples(tables: Tables, folder: Path) -> list[Example]:
    """Return for each class an image on which most readers agree: by reader, and fused in white."""
    examples = []
    for finding in CATALOG:
        marked = tables.fused[tables.fused["class_id"] == finding.index]
        for image_id in marked.sort_values(["readers", "image_id"], ascending=[False, True])[
            "image_id"
        ].head(3):
            if (pixels := _read_image(folder, image_id)) is None:
                continue
            rows = tables.readers[tables.readers["image_id"] == image_id]
            drawn = rows[rows["class_id"] == finding.index]
            names = sorted(rows["rad_id"].unique())
            colours = {name: _COLOURS[k % len(_COLOURS)] for k, name in enumerate(names)}
            fused = marked[marked["image_id"] == image_id]
            uri = _draw_boxes(pixels, drawn, fused, colours)
            examples.append(Example(finding.name, image_id, uri, tuple(colours.items())))
            break
    return examples


def _read_image(folder: Path, image_id: str) -> NDArray[np.uint8] | None:
    path = folder / f"{image_id}.png"
    if not path.is_file():  # OpenCV would print a warning for each.
        return None
    pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    return None if pixels is None else np.asarray(pixels, np.uint8)


def _draw_boxes(
    pixels: NDArray[np.uint8], drawn: pd.DataFrame, fused: pd.DataFrame, colours: dict[str, str]
) -> str:
    scale = _SIDE / max(pixels.shape)
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    image = cv2.cvtColor(small, cv2.COLOR_GRAY2BGR)
    boxes = [(row, colours[str(row.rad_id)], 1) for row in drawn.itertuples()]
    boxes += [(row, "#ffffff", 2) for row in fused.itertuples()]
    for row, colour, width in boxes:
        blue_green_red = tuple(int(colour[k : k + 2], 16) for k in (5, 3, 1))
        low = (round(row.x_min * scale), round(row.y_min * scale))
        high = (round(row.x_max * scale), round(row.y_max * scale))
        cv2.rectangle(image, low, high, blue_green_red, width)
    return _to_data_uri(np.asarray(image, np.uint8), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 85)


def _make_thumbnails(issue: QualityIssue, folder: Path) -> list[tuple[str, str]]:
    found = []
    for image_id in issue.image_ids:
        if (pixels := _read_image(folder, image_id)) is not None:
            scale = _THUMBNAIL / max(pixels.shape)
            small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            found.append((image_id, _to_data_uri(np.asarray(small, np.uint8), ".jpg")))
    return found


def _group_rejected(measured: Quality) -> list[Reason]:
    return [
        Reason(
            str(why),
            len(rows),
            tuple(
                {str(key): str(value) for key, value in row.items()}
                for row in rows.head(_REJECTED).to_dict("records")
            ),
        )
        for why, rows in measured.rejected.groupby("why", sort=True)
    ]
