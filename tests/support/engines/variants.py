"""Engine variants of the transparent bundle of `tests.support.engines.bundles`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edge_agent.engines.bundle import Bundle
from hilum.catalog import CATALOG
from hilum.manifest import (
    EngineVariant,
    GoldenCase,
    GoldenCases,
    GoldenFinding,
    GoldenTolerance,
)
from tests.support.engines import bundles
from tests.support.engines.bundles import ANCHORS, ROWS, SIZE

ORT = "onnxruntime-fp32"


def transparent_onnx(*, images: int | str = 1, rows: int = ROWS, log: bool = False) -> bytes:
    """Return the transparent model as ONNX; `images` may be the name of an open dimension."""
    scale = np.ones((1, rows, 1), np.float32)
    scale[:, 4:] /= 255
    shape = np.array([-1, rows, SIZE * SIZE // rows])
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "shape"], ["matrix"]),
        helper.make_node("Mul", ["matrix", "scale"], ["scaled"]),
        helper.make_node("Log" if log else "Identity", ["scaled"], ["outputs"]),
    ]
    graph = helper.make_graph(
        nodes,
        "transparent",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [images, 1, SIZE, SIZE])],
        [
            helper.make_tensor_value_info(
                "outputs", TensorProto.FLOAT, [images, rows, SIZE * SIZE // rows]
            )
        ],
        [numpy_helper.from_array(shape, "shape"), numpy_helper.from_array(scale, "scale")],
    )
    model: ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    return bytes(model.SerializeToString())


def variant(name: str, **changes: Any) -> EngineVariant:
    """Return a variant of this name, of the runtime that its name begins with."""
    runtime = name.partition("-")[0]
    is_onnx = runtime == "onnxruntime"
    fields: dict[str, Any] = {
        "name": name,
        "runtime": runtime,
        "precision": "fp32",
        "model": "model.onnx" if is_onnx else "openvino/model.xml",
        "weights": None if is_onnx else "openvino/model.bin",
        "operating_points": {finding.slug: bundles.THRESHOLD for finding in CATALOG},
    }
    return EngineVariant(**fields | changes)


def bundle_with(
    path: Path,
    *variants: EngineVariant,
    onnx: bytes | None = None,
    more: dict[str, bytes] | None = None,
) -> Bundle:
    """Write and open a sound bundle with these variants; `more` are further members."""
    mass = GoldenFinding(finding="nodule_mass", score=0.8, box=(30, 33, 50, 63))
    names = [it.name for it in variants]
    cases = GoldenCases(
        tolerances={name: GoldenTolerance(score=0.05, min_iou=0.8) for name in names},
        cases=(
            GoldenCase(
                name="mass", image="golden/mass.png", expected=dict.fromkeys(names, (mass,))
            ),
            GoldenCase(name="clear", image="golden/clear.png", expected=dict.fromkeys(names, ())),
        ),
    )
    members = bundles.contents() | {
        "model.onnx": transparent_onnx() if onnx is None else onnx,
        "golden/cases.json": cases.to_bytes(),
        **(more or {}),
    }
    manifest_bytes = bundles.manifest(members, engines=variants).to_bytes()
    return Bundle.open(bundles.pack(path, members, manifest_bytes))


def noise(seed: int, count: int = 1) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return random pictures, u8 (count, 1, 96, 96)."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 1, SIZE, SIZE), dtype=np.uint8)


def model_outputs(
    batch: np.ndarray[Any, np.dtype[np.uint8]],
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the transparent model's outputs for a batch."""
    outputs = batch.reshape(len(batch), ROWS, ANCHORS).astype(np.float32)
    outputs[:, 4:] /= 255
    return outputs
