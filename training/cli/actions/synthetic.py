"""Runs `hilum-train synthetic`, `data statistics` and `data lung-shapes`, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hilum.catalog import CATALOG
from training.cli.console import exit_status, progress_bars
from training.data.atomic_files import replace_files
from training.errors import TrainingError
from training.synthetic import box_statistics, dicom_studies, lungs, writer
from training.synthetic.backgrounds import load_backgrounds
from training.synthetic.generator import Generator, Sample

_PREVIEWED: Final = 24


@exit_status
def synthetic(
    *,
    out: Path,
    count: int,
    seed: int,
    backgrounds: Path | None,
    preview: Path | None,
    studies: bool,
    workers: int,
) -> None:
    """Write a synthetic data set, and a contact sheet if `preview` is given."""
    if preview is not None and not cv2.haveImageWriter(str(preview)):
        raise TrainingError(
            f"{preview} has no suffix of an image format", hint="Let its name end in .png."
        )
    shapes = lungs.load_shape_model()
    pictures = load_backgrounds(backgrounds, shapes) if backgrounds is not None else ()
    generator = Generator(shapes, box_statistics.load_statistics(), pictures)
    seeds = range(seed, seed + count)
    write = dicom_studies.write_studies if studies else writer.write_dataset
    shown: list[Sample] = []
    with progress_bars() as on_progress:
        for done, _ in enumerate(write(generator, out, seeds, workers=workers), start=1):
            on_progress("paint", done, count)
        if preview is not None:
            for sample_seed in seeds[:_PREVIEWED]:
                shown.append(generator.sample(sample_seed))
                on_progress("preview", len(shown), min(count, _PREVIEWED))
    if preview is not None:
        encoded = cv2.imencode(preview.suffix, contact_sheet(shown))[1]
        with replace_files(preview.parent) as place:
            place(preview.name).write_bytes(encoded.tobytes())


@exit_status
def statistics(*, annotations: Path, out: Path) -> None:
    """Aggregate an annotation table."""
    box_statistics.save_statistics(box_statistics.measure_statistics(annotations), out)


@exit_status
def lung_shapes(*, masks: Path, out: Path) -> None:
    """Aggregate lung masks."""
    lungs.save_shape_model(lungs.measure_shape_model(masks), out)


def contact_sheet(samples: list[Sample], *, columns: int = 6, side: int = 384) -> NDArray[np.uint8]:
    """Draw samples with their boxes and names as one image.

    Args:
        samples: the samples.
        columns: samples per row.
        side: height and width of a sample in pixels.

    Returns:
        The image, BGR u8.
    """
    tiles = []
    for sample in samples:
        tile = cv2.cvtColor(sample.pixels, cv2.COLOR_GRAY2BGR)
        for label in sample.labels:
            low = (round(label.x_min), round(label.y_min))
            cv2.rectangle(tile, low, (round(label.x_max), round(label.y_max)), (0, 255, 255), 1)
            text = CATALOG[label.index].name
            cv2.putText(tile, text, (low[0], low[1] - 3), 0, 0.45, (0, 255, 0), 1, cv2.LINE_AA)
        tiles.append(cv2.resize(tile, (side, side), interpolation=cv2.INTER_AREA))
    blank = np.zeros((side, side, 3), np.uint8)
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[k : k + columns]) for k in range(0, len(tiles), columns)]
    return np.vstack(rows).astype(np.uint8)
