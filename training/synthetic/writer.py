"""Writing of synthetic data sets: a pool of processes paints and stores the samples."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import cv2

from hilum.catalog import CATALOG
from training.data import splits
from training.data.atomic_files import replace_file, replace_files
from training.data.dataset import ANNOTATIONS, IMAGES, NO_FINDING, refuse_existing_dataset
from training.synthetic.generator import Generator, Sample

_generator: Generator | None = None


def _initialise_worker(generator: Generator) -> None:
    global _generator  # noqa: PLW0603 - how a worker process keeps what it was started with
    _generator = generator
    cv2.setNumThreads(1)


def _paint_and_store(task: tuple[int, Path]) -> Sample:
    seed, path = task
    assert _generator is not None  # noqa: S101 - the pool's initializer has set it
    sample = _generator.sample(seed)
    # Written by us, because OpenCV does not report a full disk.
    encoded = cv2.imencode(".png", sample.pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
    replace_file(path, encoded.tobytes())
    return sample


@dataclass(frozen=True, slots=True, eq=False)
class SyntheticPart:
    """A part of a data set: samples of one generator, whose image ids begin with `name`."""

    name: str
    generator: Generator
    seeds: range


def write_dataset(
    generator: Generator, folder: Path, seeds: range, *, workers: int = 2
) -> Iterator[Sample]:
    """Generate and store one sample per seed.

    The tables are written last, so a folder without them is an unfinished data set.

    Args:
        generator: makes the samples.
        folder: where the data set is written.
        seeds: one per image.
        workers: number of processes.

    Yields:
        Each sample when it is stored, in order.

    Raises:
        TrainingError: the folder holds a data set already, or the disk cannot be written.
    """
    return write_dataset_parts([SyntheticPart("", generator, seeds)], folder, workers=workers)


def write_dataset_parts(
    parts: Sequence[SyntheticPart],
    folder: Path,
    *,
    split: splits.Split | None = None,
    workers: int = 2,
) -> Iterator[Sample]:
    """Generate and store a data set of several parts, one after the other.

    Args:
        parts: the parts.
        folder: where the data set is written.
        split: the frozen split to store with it.
        workers: number of processes.

    Yields:
        Each sample when it is stored, in order.

    Raises:
        TrainingError: the folder holds a data set already, or the disk cannot be written.
    """
    refuse_existing_dataset(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows: list[list[object]] = []
    facts: list[list[object]] = []
    for part in parts:
        paths = [folder / "images" / f"{name}.png" for name in image_ids(part)]
        # Spawned, not forked: OpenCV's own threads do not survive a fork.
        with ProcessPoolExecutor(
            workers,
            mp_context=get_context("spawn"),
            initializer=_initialise_worker,
            initargs=(part.generator,),
        ) as pool:
            made = pool.map(_paint_and_store, zip(part.seeds, paths, strict=True), chunksize=8)
            for path, sample in zip(paths, made, strict=True):
                unknown = " ".join(CATALOG[k].slug for k in sorted(sample.unknown))
                facts.append([path.stem, sample.background, unknown])
                rows += _format_rows(path.stem, sample)
                yield sample
    columns = ["image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max"]
    with replace_files(folder) as place:
        _write_table(place(IMAGES), ["image_id", "background", "unknown"], facts)
        _write_table(place(ANNOTATIONS), columns, rows)
        if split is not None:
            splits.save_split(split, place(splits.FILE))


def image_ids(part: SyntheticPart) -> list[str]:
    """Return the image ids of a part, in the order of its seeds."""
    prefix = f"{part.name}-" if part.name else ""
    return [f"{prefix}{k:06d}" for k in range(len(part.seeds))]


def _format_rows(name: str, sample: Sample) -> list[list[object]]:
    if not sample.labels:
        return [[name, NO_FINDING, len(CATALOG), "S1", "", "", "", ""]]
    return [
        [name, CATALOG[label.index].name, label.index, "S1"]
        + [round(v, 1) for v in (label.x_min, label.y_min, label.x_max, label.y_max)]
        for label in sample.labels
    ]


def _write_table(path: Path, columns: list[str], rows: list[list[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(columns)
        writer.writerows(rows)
