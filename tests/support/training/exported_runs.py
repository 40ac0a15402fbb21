"""A run's folder as training leaves it: weights, a set that they detect well, a configuration.

The boxes of the set are what the network itself finds there, so its figures are high, and what an
exported graph loses shows. The network is of random weights and says nothing about anybody.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import torch
from ultralytics.nn.tasks import DetectionModel

from hilum.catalog import CATALOG
from hilum.manifest import HeadSpec, InputSpec, Provenance
from tests.support.training.models import blobs
from training.bundle.archive import BundleContents
from training.config import Config
from training.data import dataset
from training.data.splits import Split
from training.evaluation.detectors import network_detector
from training.evaluation.parity import ParityResult
from training.export.artifacts import ExportArtifacts
from training.workflow import run_inputs

SIZE = 96
LABELLED = 0.75
"""Findings of at least this score are the set's boxes."""
SURE = 0.9
"""No operating point lies lower: a random network's scores flip with every rounding below it."""
PARTS = {"train": 6, "valid": 6, "test": 8}


def exportable(folder: Path, network: DetectionModel, **sections: object) -> Path:
    """Write it all to `folder`; the path of the configuration."""
    run = folder / "run"
    run.mkdir(parents=True)
    torch.save(network.state_dict(), run / "weights.pt")
    _write_set(folder / "set", network)
    content: dict[str, object] = {
        "out": str(run),
        "data": {"dataset": str(folder / "set")},
        "train": {"input_size": SIZE},
        "evaluate": {"resamples": 50, "floor": SURE},
        "export": {"calibration_images": 4, "fast_bias_correction": True, "capabilities": ["8.9"]},
        "parity": {"map50_drop": 1.0, "sensitivity_drop": 1.0},
        **sections,
    }
    path = folder / "c.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML.
    return path


def _write_set(folder: Path, network: DetectionModel) -> None:
    (folder / "images").mkdir(parents=True)
    detect = network_detector(network, InputSpec(height=SIZE, width=SIZE), HeadSpec())
    images, boxes = [], []
    for k in range(sum(PARTS.values())):
        name, pixels = f"{k:03d}", blobs(500 + k, 120, 100)
        cv2.imwrite(str(folder / "images" / f"{name}.png"), pixels)
        images.append([name, "painted", ""])
        for found in detect(pixels):
            if found.score >= LABELLED:
                box = found.box
                corners = [box.x_min, box.y_min, box.x_max, box.y_max]
                boxes.append([name, CATALOG[found.index].name, found.index, *corners])
    columns = ["image_id", "class_name", "class_id", "x_min", "y_min", "x_max", "y_max"]
    _table(folder / "images.csv", ["image_id", "background", "unknown"], images)
    _table(folder / "annotations.csv", columns, boxes)
    ids = iter(row[0] for row in images)
    parts = {name: tuple(next(ids) for _ in range(count)) for name, count in PARTS.items()}
    document = Split(0, parts).to_document()
    (folder / "split.json").write_text(json.dumps(document), encoding="utf-8")


def _table(path: Path, columns: list[str], rows: list[list[str]] | list[list[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([columns, *rows])


def toy_parts(config: Config, made: ExportArtifacts, result: ParityResult) -> BundleContents:
    """What a bundle of a proven run is made of, the set's own pictures as golden cases."""
    pictures = {
        f"case-{k}": run_inputs.to_input(entry, made.manifest.input)[0][0, 0]
        for k, entry in enumerate(dataset.load_dataset(config.data.dataset))
    }
    return BundleContents(
        name="toy",
        version="0.0.1",
        intended_use="Tests.",
        graphs=made.graphs,
        operating_points={it.name: it.points for it in result.variants},
        pictures=pictures,
        model_card="# Toy\n",
        provenance=Provenance(trained_on="noise", command="none", seed=0, base_weights="none"),
    )
