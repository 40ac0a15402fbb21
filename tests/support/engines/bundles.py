"""Small bundles without training, with a model whose outputs a test can paint.

The model is transparent: an input of 96 x 96 pixels, read row after row, is the output matrix of
18 x 512 itself. Rows 0-3 (the box) are the grey values, the others (the scores) are divided by 255.
So a test paints the outputs that the engine is to give.
"""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from hilum.catalog import CATALOG
from hilum.manifest import (
    MANIFEST_NAME,
    EngineVariant,
    GoldenCase,
    GoldenCases,
    GoldenFinding,
    GoldenTolerance,
    HeadSpec,
    InputSpec,
    Manifest,
    Member,
    Provenance,
)

SIZE = 96
ROWS = 4 + len(CATALOG)
ANCHORS = SIZE * SIZE // ROWS
VARIANT = "openvino-fp32"
THRESHOLD = 0.5


def transparent_ir(*, rows: int = ROWS, log: bool = False) -> tuple[bytes, bytes]:
    """Return the IR (xml, bin) of the transparent model; `log` makes black scores minus infinity.

    Pixels that do not fill a column of `rows` values are left out.
    """
    images = ops.parameter([1, 1, SIZE, SIZE], np.uint8, name="images")
    anchors = SIZE * SIZE // rows
    values = ops.reshape(ops.convert(images, "f32"), [SIZE * SIZE], False)
    if rows * anchors < SIZE * SIZE:
        values = ops.slice(values, [0], [rows * anchors], [1], [0])
    matrix = ops.reshape(values, [1, rows, anchors], False)
    scale = np.ones((1, rows, 1), np.float32)
    scale[:, 4:] /= 255
    outputs = ops.multiply(matrix, scale)
    if log:
        outputs = ops.log(outputs)
    outputs.output(0).get_tensor().set_names({"outputs"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        ov.save_model(ov.Model([outputs], [images]), path, compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def picture(
    *findings: tuple[int, int, tuple[int, int, int, int]], rows: int = ROWS
) -> NDArray[np.uint8]:
    """Return a u8 (96, 96) input of the transparent model that gives these findings.

    Each finding is class, score as a grey value, and centre x, centre y, width, height.
    """
    outputs = np.zeros((rows, SIZE * SIZE // rows), np.uint8)
    for anchor, (index, grey, box) in enumerate(findings):
        outputs[:4, anchor] = box
        outputs[4 + index, anchor] = grey
    pixels = np.zeros(SIZE * SIZE, np.uint8)
    pixels[: outputs.size] = outputs.ravel()
    return pixels.reshape(SIZE, SIZE)


MASS = picture((8, 204, (40, 48, 20, 30)))
"""A nodule or mass of score 0.8 at (30, 33)-(50, 63)."""


def contents(*, xml: bytes | None = None, weights: bytes | None = None) -> dict[str, bytes]:
    """Return all members of a sound bundle but its manifest."""
    sound_xml, sound_weights = transparent_ir()
    mass = GoldenFinding(finding="nodule_mass", score=0.8, box=(30, 33, 50, 63))
    cases = GoldenCases(
        tolerances={VARIANT: GoldenTolerance(score=0.05, min_iou=0.8)},
        cases=(
            GoldenCase(name="mass", image="golden/mass.png", expected={VARIANT: (mass,)}),
            GoldenCase(name="clear", image="golden/clear.png", expected={VARIANT: ()}),
        ),
    )
    return {
        "openvino/model.xml": sound_xml if xml is None else xml,
        "openvino/model.bin": sound_weights if weights is None else weights,
        "golden/cases.json": cases.to_bytes(),
        "golden/mass.png": png(MASS),
        "golden/clear.png": png(picture()),
        "model-card.md": b"A transparent model for tests, not for patients.\n",
    }


def manifest(members: dict[str, bytes], **changes: Any) -> Manifest:
    """Return the manifest of these members."""
    fields: dict[str, Any] = {
        "name": "transparent",
        "version": "0.0.1",
        "intended_use": "Tests.",
        "findings": tuple(finding.slug for finding in CATALOG),
        "input": InputSpec(height=SIZE, width=SIZE),
        "head": HeadSpec(),
        "engines": (
            EngineVariant(
                name=VARIANT,
                runtime="openvino",
                precision="fp32",
                model="openvino/model.xml",
                weights="openvino/model.bin",
                operating_points={finding.slug: THRESHOLD for finding in CATALOG},
            ),
        ),
        "golden_cases": "golden/cases.json",
        "model_card": "model-card.md",
        "provenance": Provenance(trained_on="nothing", command="none", seed=0, base_weights="none"),
        "files": {
            name: Member(sha256=hashlib.sha256(member).hexdigest(), size_bytes=len(member))
            for name, member in members.items()
        },
    }
    return Manifest(**fields | changes)


def partial_bundle(
    path: Path, operating_points: dict[str, float], shown: NDArray[np.uint8]
) -> Path:
    """Write a bundle whose transparent model has only the classes of `operating_points`.

    Args:
        path: the file that is written.
        operating_points: thresholds by slug, in the catalogue's order.
        shown: a golden image on which the first class has a score of 0.8 at (30, 33)-(50, 63), and
            no other finding reaches its operating point.
    """
    xml, weights = transparent_ir(rows=4 + len(operating_points))
    first = GoldenFinding(finding=next(iter(operating_points)), score=0.8, box=(30, 33, 50, 63))
    cases = GoldenCases(
        tolerances={VARIANT: GoldenTolerance(score=0.05, min_iou=0.8)},
        cases=(GoldenCase(name="first", image="golden/mass.png", expected={VARIANT: (first,)}),),
    )
    members = contents(xml=xml, weights=weights) | {
        "golden/cases.json": cases.to_bytes(),
        "golden/mass.png": png(shown),
    }
    del members["golden/clear.png"]
    whole = manifest(members)
    variant = whole.engines[0].model_copy(update={"operating_points": operating_points})
    declared = manifest(members, findings=tuple(operating_points), engines=(variant,))
    return pack(path, members, declared.to_bytes())


def pack(path: Path, members: dict[str, bytes], manifest_bytes: bytes | None = None) -> Path:
    """Zip the members with their manifest, or with the given bytes in its place."""
    if manifest_bytes is None:
        manifest_bytes = manifest(members).to_bytes()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST_NAME, manifest_bytes)
        for name, member in members.items():
            archive.writestr(name, member)
    return path


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return the picture as PNG."""
    return bytes(cv2.imencode(".png", pixels)[1])
