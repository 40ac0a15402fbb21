"""Bundles of networks with random weights, which take as long as trained ones. Kept in runs/bench.

One golden picture, plain grey, on which such a network finds nothing.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import cv2
import nncf
import numpy as np
import openvino as ov
import torch
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

from hilum.catalog import CATALOG
from hilum.manifest import GoldenCases
from tests.bench.int8 import CALIBRATION, FOLDER
from tests.support.agents.tagged import SLUGS, manifest
from training.export.int8 import quantize
from training.export.onnx import convert_to_openvino, export_onnx, serialize_ir

VARIANTS = {"openvino-int8": "int8", "openvino-bf16": "bf16", "openvino-fp32": "fp32"}


def random_bundle(architecture: str, size: int) -> tuple[Path, Path]:
    """A bundle and ultralytics' own checkpoint of the same weights; made if absent."""
    versions = f"nncf{nncf.__version__}-ov{ov.__version__.split('-')[0]}"
    bundle = FOLDER / versions / f"{architecture}-{size}.bundle"
    weights = bundle.with_suffix(".pt")
    if not (bundle.is_file() and weights.is_file()):
        bundle.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        yolo = YOLO(f"{architecture}.yaml")
        yolo.model = DetectionModel(f"{architecture}.yaml", ch=3, nc=len(CATALOG), verbose=False)
        yolo.save(weights)
        _write(bundle, export_onnx(yolo.model.eval(), size, size), size)
    return bundle, weights


def _write(path: Path, onnx: bytes, size: int) -> None:
    rng = np.random.default_rng(0)
    pictures = [
        rng.integers(0, 256, (1, 1, size, size), dtype=np.uint8) for _ in range(CALIBRATION)
    ]
    int8, int8_weights = serialize_ir(
        quantize(convert_to_openvino(onnx), pictures, fast_bias_correction=True)
    )
    fp32, fp32_weights = serialize_ir(convert_to_openvino(onnx))
    # A bundle has to expect something; at this score it may as well be missing.
    faint = {"finding": SLUGS[0], "score": 0.25, "box": (0, 0, size, size)}
    nothing = {name: [faint] for name in VARIANTS}
    tolerances = {name: {"score": 0.05, "min_iou": 0.5} for name in VARIANTS}
    case = {"name": "grey", "image": "golden/grey.png", "expected": nothing}
    golden = GoldenCases.model_validate({"tolerances": tolerances, "cases": [case]})
    grey = np.full((size, size), 114, np.uint8)
    members = {
        "int8.xml": int8,
        "int8.bin": int8_weights,
        "fp32.xml": fp32,
        "fp32.bin": fp32_weights,
        "golden/grey.png": cv2.imencode(".png", grey)[1].tobytes(),
        "golden/cases.json": golden.to_bytes(),
        "model_card.md": b"# Random weights\n\nFor timing only.\n",
    }
    engines = [
        {
            "name": name,
            "runtime": "openvino",
            "precision": precision,
            "model": "int8.xml" if precision == "int8" else "fp32.xml",
            "weights": "int8.bin" if precision == "int8" else "fp32.bin",
            "operating_points": dict.fromkeys(SLUGS, 0.25),
        }
        for name, precision in VARIANTS.items()
    ]
    files = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        for name, data in members.items()
    }
    declared = manifest(
        "openvino-fp32",
        name=path.stem,
        input={"height": size, "width": size},
        engines=engines,
        files=files,
    )
    members["manifest.json"] = declared.to_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
