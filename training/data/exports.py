"""Export of a data set to the layouts that other tools read: YOLO's folders, COCO's documents."""

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
from training.progress import ProgressCallback


def export_yolo(folder: Path, out: Path, on_progress: ProgressCallback) -> int:
    """Write `images/<split>/`, `labels/<split>/` and, last, `data.yaml`.

    YOLO's labels cannot hold how many readers agreed. Images are hard links where the disk allows
    it.

    Args:
        folder: the data set.
        out: an empty or absent folder.
        on_progress: called after each image.

    Returns:
        The number of images.

    Raises:
        TrainingError: `out` is not empty, the data set is unfinished or has no split, or an image
            is missing.
        OSError: an image or label cannot be written.
    """
    total, done = _count_images(folder), 0
    _check_empty(out)
    for name in splits.NAMES:
        for kind in ("images", "labels"):
            (out / kind / name).mkdir(parents=True, exist_ok=True)
        for image in _load_images(folder, name):
            text = out / "labels" / name / f"{image.image_id}.txt"
            text.write_text(_format_yolo_labels(image), encoding="utf-8")
            _link_image(image.path, out / "images" / name / image.path.name)
            on_progress("export", done := done + 1, total)
    names = "".join(f"  {finding.index}: {json.dumps(finding.name)}\n" for finding in CATALOG)
    sides = "".join(f"{'val' if n == 'valid' else n}: images/{n}\n" for n in splits.NAMES)
    with replace_files(out) as place:
        # `path` is omitted, because ultralytics would resolve it in the current folder. Without it,
        # the splits are resolved beside the file.
        place("data.yaml").write_text(f"{sides}names:\n{names}", encoding="utf-8")
    return done


def _format_yolo_labels(image: LabelledImage) -> str:
    """Return one line per label: class, and the box's centre and size as shares of the image."""
    rows, columns = _measure_size(image)
    return "".join(
        f"{label.index} {(label.x_min + label.x_max) / 2 / columns:.6f} "
        f"{(label.y_min + label.y_max) / 2 / rows:.6f} "
        f"{(label.x_max - label.x_min) / columns:.6f} "
        f"{(label.y_max - label.y_min) / rows:.6f}\n"
        for label in image.labels
    )


def export_coco(folder: Path, out: Path, on_progress: ProgressCallback) -> int:
    """Write `images/<split>/` and `annotations/instances_<split>.json`, the documents last.

    Annotations carry `weight`, the share of readers who agreed. Category ids are the catalogue's
    index plus 1, because COCO's tools take 0 for "none".

    Args:
        folder: the data set.
        out: an empty or absent folder.
        on_progress: called after each image.

    Returns:
        The number of images.

    Raises:
        TrainingError: `out` is not empty, the data set is unfinished or has no split, or an image
            is missing.
        OSError: an image cannot be written.
    """
    total, done = _count_images(folder), 0
    _check_empty(out)
    categories = [{"id": f.index + 1, "name": f.name, "supercategory": "finding"} for f in CATALOG]
    documents: dict[str, dict[str, Any]] = {}
    for name in splits.NAMES:
        (out / "images" / name).mkdir(parents=True, exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, image in enumerate(_load_images(folder, name), start=1):
            rows, columns = _measure_size(image)
            images.append(
                {"id": number, "file_name": image.path.name, "height": rows, "width": columns}
            )
            annotations += _build_coco_annotations(image, number, first_id=len(annotations) + 1)
            _link_image(image.path, out / "images" / name / image.path.name)
            on_progress("export", done := done + 1, total)
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


def _build_coco_annotations(
    image: LabelledImage, number: int, *, first_id: int
) -> list[dict[str, Any]]:
    annotations = []
    for label_id, label in enumerate(image.labels, start=first_id):
        width, height = label.x_max - label.x_min, label.y_max - label.y_min
        annotations.append(
            {
                "id": label_id,
                "image_id": number,
                "category_id": label.index + 1,
                "bbox": [round(v, 2) for v in (label.x_min, label.y_min, width, height)],
                "area": round(width * height, 2),
                "iscrowd": 0,
                "weight": label.weight,
            }
        )
    return annotations


EXPORTERS: Final[dict[str, Callable[[Path, Path, ProgressCallback], int]]] = {
    "yolo": export_yolo,
    "coco": export_coco,
}


def _check_empty(out: Path) -> None:
    # The files of another split's export would stay, and YOLO uses every file of a split's folder.
    if out.exists() and any(out.iterdir()):
        raise TrainingError(
            f"{out} is not empty",
            hint="An image of an earlier export would be in two splits. Name another folder.",
        )


def _count_images(folder: Path) -> int:
    return sum(len(ids) for ids in splits.load_split(folder).images.values())


def _load_images(folder: Path, name: str) -> tuple[LabelledImage, ...]:
    # A part with a share of 0 is empty; the other parts are exported all the same.
    return dataset.load_dataset(folder, name) if splits.load_split(folder).images.get(name) else ()


def _measure_size(image: LabelledImage) -> tuple[int, int]:
    # The whole image is decoded although the header would do: a damaged image must be found here.
    pixels = cv2.imread(str(image.path), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        raise TrainingError(
            f"cannot read the image {image.path}",
            hint="A data set made without --images has annotations only and cannot be exported.",
        )
    return pixels.shape[0], pixels.shape[1]


def _link_image(source: Path, target: Path) -> None:
    part = target.with_suffix(".part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:  # Another disk, or one without hard links.
        shutil.copyfile(source, part)
    part.replace(target)
