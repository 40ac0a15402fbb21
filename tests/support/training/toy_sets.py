"""Data sets that a detector learns in seconds: bright discs on grey, 64 pixels wide."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np

from hilum.catalog import CATALOG
from training.config import Config, load_config
from training.data.dataset import LabelledImage
from training.data.labels import Label
from training.data.splits import Split

TOY_TRAIN = {
    "input_size": 64,
    "small_size": 64,
    "small_epochs": 0,
    "epochs": 2,
    "batch": 4,
    "warmup_steps": 2,
    "restart_epoch": None,
    "threads": 1,
    "bfloat16": False,
    "augment": False,
}
"""Settings of `train` at toy size."""

NODULE = 8


def discs(folder: Path, count: int, *, seed: int = 0) -> tuple[LabelledImage, ...]:
    """Write images with one disc each, labelled as a nodule or mass; return them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    images = []
    for k in range(count):
        pixels = np.full((64, 64), 60, np.uint8)
        x, y = rng.integers(18, 46, 2).tolist()
        cv2.circle(pixels, (x, y), 12, 230, -1)
        cv2.imwrite(str(folder / f"{k:03d}.png"), pixels)
        label = Label(NODULE, x - 12, y - 12, x + 13, y + 13)
        images.append(
            LabelledImage(f"{k:03d}", folder / f"{k:03d}.png", "painted", frozenset(), (label,))
        )
    return tuple(images)


def stored_set(folder: Path, train: int = 10, valid: int = 3) -> Path:
    """Write a data set with its frozen split; return `folder`."""
    entries = discs(folder / "images", train + valid)
    with (folder / "images.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["image_id", "background", "unknown"])
        writer.writerows([entry.image_id, entry.background, ""] for entry in entries)
    with (folder / "annotations.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["image_id", "class_name", "class_id", "x_min", "y_min", "x_max", "y_max"])
        for entry in entries:
            label = entry.labels[0]
            box = [label.x_min, label.y_min, label.x_max, label.y_max]
            writer.writerow([entry.image_id, CATALOG[NODULE].name, NODULE, *box])
    ids = tuple(entry.image_id for entry in entries)
    split = Split(0, {"train": ids[:train], "valid": ids[train:], "test": ()})
    (folder / "split.json").write_text(json.dumps(split.to_document()), encoding="utf-8")
    return folder


def configured(folder: Path, **sections: object) -> Path:
    """Write the configuration of a toy run on a data set in `folder`; return the file's path."""
    content = {
        "out": str(folder / "run"),
        "data": {"dataset": str(stored_set(folder / "set"))},
        "train": TOY_TRAIN,
        "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"},
    }
    for name, section in sections.items():
        known = content.get(name, {})
        content[name] = {**known, **section} if isinstance(section, dict) else section
    path = folder / "c.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    return path


def tracked_config(folder: Path, uri: str) -> Config:
    """Return the configuration of a toy run that is tracked at an address."""
    folder.mkdir(exist_ok=True)
    config = load_config(configured(folder, tracking={"uri": uri}))
    config.out.mkdir()
    return config
