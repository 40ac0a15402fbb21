"""ultralytics' post-processing and Hilum's give the same findings for the same weights.

Left: the torch network and `ultralytics.utils.nms.non_max_suppression`. Right: the exported graph
on the agent's OpenVINO engine in f32 and `edge_agent.core.findings`. Boxes within a pixel, the same
classes, scores within a thousandth.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.nms import non_max_suppression

from edge_agent.core.findings import Finding, decode_findings
from edge_agent.core.geometry import Letterbox
from edge_agent.engines.bundle import Bundle, starter_bundle_path
from edge_agent.engines.golden import read_golden_image
from edge_agent.engines.runtimes.openvino import OpenVinoEngine, OpenVinoOptions
from edge_agent.imaging import read_study
from edge_agent.imaging.letterbox import apply_letterbox
from hilum.catalog import CATALOG
from hilum.manifest import HeadSpec, InputSpec
from tests.support.engines import bundles
from tests.support.training.models import blobs, detector_of, random_detector
from training.export.onnx import export_onnx

pytestmark = [pytest.mark.training, pytest.mark.slow]
F32 = OpenVinoOptions(threads=2, inference_precision="f32")
THRESHOLD = 0.06
RANDOM_SIZE = (256, 320)

Row = tuple[float, float, float, float, float, int]


@pytest.fixture(scope="module")
def starter() -> Bundle:
    return Bundle.open(starter_bundle_path())


def by_ultralytics(model: DetectionModel, pixels: NDArray[np.uint8], head: HeadSpec) -> list[Row]:
    """Corners, score and class from the network's own outputs, clipped to the picture."""
    with torch.no_grad():
        outputs = model(torch.from_numpy(pixels)[None, None].float() / 255)
    (rows,) = non_max_suppression(
        outputs,
        conf_thres=THRESHOLD,
        iou_thres=head.iou_threshold,
        multi_label=head.multi_label,
        max_det=head.max_findings,
    )
    height, width = pixels.shape
    rows[:, [0, 2]] = rows[:, [0, 2]].clamp(0, width)
    rows[:, [1, 3]] = rows[:, [1, 3]].clamp(0, height)
    return [(*row[:5], int(row[5])) for row in rows.tolist()]


def by_hilum(engine: OpenVinoEngine, pixels: NDArray[np.uint8], head: HeadSpec) -> list[Row]:
    height, width = pixels.shape
    found = decode_findings(
        engine.infer(pixels[None, None])[0],
        Letterbox.fit(height, width, height, width),
        head,
        [THRESHOLD] * len(CATALOG),
    )
    return [row_of(finding) for finding in found]


def row_of(finding: Finding) -> Row:
    box = finding.box
    return (box.x_min, box.y_min, box.x_max, box.y_max, finding.score, finding.index)


def assert_same(ours: list[Row], theirs: list[Row]) -> None:
    """Each of theirs has one of ours: same class, box within 1 px, score within 1e-3."""
    assert len(ours) == len(theirs)
    free = list(ours)
    for row in theirs:
        alike = [
            other
            for other in free
            if other[5] == row[5]
            and abs(other[4] - row[4]) <= 1e-3
            and max(abs(a - b) for a, b in zip(other[:4], row[:4], strict=True)) <= 1
        ]
        assert alike, f"{row} has no counterpart"
        free.remove(alike[0])


@pytest.mark.parametrize("multi_label", [True, False])
def test_random_weights(tmp_path: Path, multi_label: bool) -> None:
    model = random_detector(seed=2)
    height, width = RANDOM_SIZE
    members = bundles.contents(xml=export_onnx(model, height, width), weights=b"")
    spec = InputSpec(height=height, width=width)
    manifest = bundles.manifest(members, input=spec)
    bundle = Bundle.open(bundles.pack(tmp_path / "random.bundle", members, manifest.to_bytes()))
    engine = OpenVinoEngine(bundle, bundle.variant(bundles.VARIANT), F32)
    head = HeadSpec(multi_label=multi_label)
    for seed in range(3):
        pixels = blobs(seed, height, width)
        theirs = by_ultralytics(model, pixels, head)
        assert len(theirs) > 20
        assert_same(by_hilum(engine, pixels, head), theirs)


def test_the_starter_on_its_golden_pictures(starter: Bundle) -> None:
    model = detector_of(starter)
    engine = OpenVinoEngine(starter, starter.variant("openvino-fp32"), F32)
    seen = 0
    for case in starter.golden.cases:
        pixels = read_golden_image(starter.read(case.image), starter.manifest.input)
        theirs = by_ultralytics(model, pixels, starter.manifest.head)
        assert_same(by_hilum(engine, pixels, starter.manifest.head), theirs)
        seen += len(theirs)
    assert seen > 0


def test_the_starter_on_a_real_radiograph(starter: Bundle, rg1: bytes) -> None:
    spec = starter.manifest.input
    radiograph = read_study(rg1)[0]
    fit = Letterbox.fit(radiograph.facts.rows, radiograph.facts.columns, spec.height, spec.width)
    pixels = apply_letterbox(radiograph.pixels, fit, spec.pad_value)
    engine = OpenVinoEngine(starter, starter.variant("openvino-fp32"), F32)
    theirs = by_ultralytics(detector_of(starter), pixels, starter.manifest.head)
    assert theirs
    assert_same(by_hilum(engine, pixels, starter.manifest.head), theirs)
