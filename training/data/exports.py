"""A set in the layouts that other tools read: YOLO's folders, COCO's documents."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import cv2

from hilum.catalog import CATALOG
from training.data import dataset, splits
from training.data.atomic_files import replace_files
from training.data.dataset import LabelledImage
from training.errors import TrainingError

OnDone = Callable[[int, int], None]


def export_yolo(folder: Path, out: Path, on_done: OnDone) -> int:
    """Write `images/<split>/`, `labels/<split>/` and, last, `data.yaml`.

    YOLO's labels have no place for how many readers agreed. Pictures are hard links where the disk
    allows it.

    Returns:
        How many images.

    Raises:
        TrainingError: `out` is not empty, the set is unfinished or undivided, or a picture is
            missing.
        OSError: a picture or label cannot be written.
    """
    total, done = _count(folder), 0
    _check_empty(out)
    for name in splits.NAMES:
        for kind in ("images", "labels"):
            (out / kind / name).mkdir(parents=True, exist_ok=True)
        for entry in _entries(folder, name):
            rows, columns = _size(entry)
            lines = [
                f"{label.index} {(label.x_min + label.x_max) / 2 / columns:.6f} "
                f"{(label.y_min + label.y_max) / 2 / rows:.6f} "
                f"{(label.x_max - label.x_min) / columns:.6f} "
                f"{(label.y_max - label.y_min) / rows:.6f}\n"
                for label in entry.labels
            ]
            text = out / "labels" / name / f"{entry.image_id}.txt"
            text.write_text("".join(lines), encoding="utf-8")
            _place(entry.path, out / "images" / name / entry.path.name)
            on_done(done := done + 1, total)
    names = "".join(f"  {finding.index}: {json.dumps(finding.name)}\n" for finding in CATALOG)
    sides = "".join(f"{'val' if n == 'valid' else n}: images/{n}\n" for n in splits.NAMES)
    with replace_files(out) as place:
        # Without `path`, which ultralytics would look for in the current folder, the splits are
        # looked for beside the file.
        place("data.yaml").write_text(f"{sides}names:\n{names}", encoding="utf-8")
    return done


def export_coco(folder: Path, out: Path, on_done: OnDone) -> int:
    """Write `images/<split>/` and `annotations/instances_<split>.json`, the documents last.

    Annotations carry `weight`, the share of readers that agreed; category ids are the catalogue's
    index plus 1, since COCO's tools take 0 for "none".

    Returns:
        How many images.

    Raises:
        TrainingError: `out` is not empty, the set is unfinished or undivided, or a picture is
            missing.
        OSError: a picture or label cannot be written.
    """
    total, done = _count(folder), 0
    _check_empty(out)
    categories = [{"id": f.index + 1, "name": f.name, "supercategory": "finding"} for f in CATALOG]
    documents: dict[str, dict[str, Any]] = {}
    for name in splits.NAMES:
        (out / "images" / name).mkdir(parents=True, exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, entry in enumerate(_entries(folder, name), start=1):
            rows, columns = _size(entry)
            images.append(
                {"id": number, "file_name": entry.path.name, "height": rows, "width": columns}
            )
            for label in entry.labels:
                width, height = label.x_max - label.x_min, label.y_max - label.y_min
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": label.index + 1,
                        "bbox": [round(v, 2) for v in (label.x_min, label.y_min, width, height)],
                        "area": round(width * height, 2),
                        "iscrowd": 0,
                        "weight": label.weight,
                    }
                )
            _place(entry.path, out / "images" / name / entry.path.name)
            on_done(done := done + 1, total)
        documents[f"instances_{name}.json"] = {
            "info": {"split": splits.load_split(folder).digest},
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
    with replace_files(out / "annotations") as place:
        for file, document in documents.items():
            place(file).write_text(json.dumps(document), encoding="utf-8")
    return done


EXPORTERS: Final[dict[str, Callable[[Path, Path, OnDone], int]]] = {
    "yolo": export_yolo,
    "coco": export_coco,
}


def _check_empty(out: Path) -> None:
    # What another split left would stay, and YOLO takes whatever lies in a split's folder.
    if out.exists() and any(out.iterdir()):
        raise TrainingError(
            f"{out} is not empty",
            hint="A picture of an earlier export would lie in two splits. Name another folder.",
        )


def _count(folder: Path) -> int:
    return sum(len(ids) for ids in splits.load_split(folder).images.values())


def _entries(folder: Path, name: str) -> tuple[LabelledImage, ...]:
    # A split may have been given no share; that is no reason to export nothing.
    return dataset.load_dataset(folder, name) if splits.load_split(folder).images.get(name) else ()


def _size(entry: LabelledImage) -> tuple[int, int]:
    # Only the header would be enough, but a picture that cannot be read should be told of here.
    pixels = cv2.imread(str(entry.path), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        raise TrainingError(
            f"cannot read the image {entry.path}",
            hint="A set made without --images has annotations only and cannot be exported.",
        )
    return pixels.shape[0], pixels.shape[1]


def _place(source: Path, target: Path) -> None:
    part = target.with_suffix(".part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, part)
    part.replace(target)
