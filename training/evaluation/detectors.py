"""Detectors from pixels to findings: through an edge engine, or through a torch network.

Both use the edge agent's code: its letterbox, and `core.findings` on the raw outputs. Every score
down to the head's floor is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from ultralytics.nn.tasks import DetectionModel

from edge_agent.core.findings import Finding, OutputsInvalid, decode_findings
from edge_agent.core.geometry import Letterbox
from edge_agent.engines.base import Engine
from edge_agent.imaging.letterbox import apply_letterbox
from hilum.catalog import CATALOG
from hilum.manifest import HeadSpec, InputSpec
from training.data.dataset import LabelledImage
from training.errors import TrainingError
from training.models.grey import to_grey

Detector = Callable[[NDArray[np.uint8]], Sequence[Finding]]
"""u8 (H, W) -> findings in pixels of that image, down to the head's score floor."""

Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""u8 (N, 1, height, width) -> raw outputs, f32 (N, 4 + classes, anchors)."""


def engine_detector(engine: Engine, spec: InputSpec, head: HeadSpec) -> Detector:
    """Return a detector that infers with an edge engine."""
    return _detector(engine.infer, spec, head)


def network_detector(
    network: DetectionModel, spec: InputSpec, head: HeadSpec, device: str = "cpu"
) -> Detector:
    """Return a detector that infers with a torch network in FP32, on one grey channel.

    The weights of three input channels are summed into one.

    Raises:
        TrainingError: torch cannot compute on the device.
    """
    try:
        if torch.device(device).type == "cuda":
            # By default a card's convolutions round to TF32.
            torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined] # made on import
        grey = to_grey(network).eval().to(device)
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(f"torch cannot compute on {device!r}: {error}") from error

    def infer(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            outputs = grey(torch.from_numpy(batch).to(device).float() / 255)
        decoded = outputs[0] if isinstance(outputs, tuple | list) else outputs
        return np.asarray(decoded.cpu().numpy(), np.float32)

    infer(np.zeros((1, 1, spec.height, spec.width), np.uint8))  # The head now has its anchors.
    return _detector(infer, spec, head)


def _detector(infer: Infer, spec: InputSpec, head: HeadSpec) -> Detector:
    floors = [head.score_floor] * len(CATALOG)

    def detect(pixels: NDArray[np.uint8]) -> Sequence[Finding]:
        fit = Letterbox.fit(pixels.shape[0], pixels.shape[1], spec.height, spec.width)
        batch = apply_letterbox(pixels, fit, spec.pad_value)[None, None]
        return decode_findings(infer(batch)[0], fit, head, floors)

    return detect


def detect_all(
    entries: Sequence[LabelledImage],
    detector: Detector,
    *,
    workers: int = 1,
    on_image: Callable[[int, int], None] = lambda *_: None,
) -> list[tuple[Finding, ...]]:
    """Detect on every image.

    Args:
        entries: the labelled images.
        detector: a detector that may be called from several threads.
        workers: number of threads that read images and wait for the detector.
        on_image: called with the number of images done, and of all.

    Returns:
        The findings of each image, in the order of the images.

    Raises:
        TrainingError: an image cannot be read, or the network's outputs for it are invalid. No
            image is skipped.
    """

    def detect(entry: LabelledImage) -> tuple[Finding, ...]:
        try:
            return tuple(detector(entry.read_pixels()))
        except OutputsInvalid as error:
            raise TrainingError(
                f"the network gives no findings for {entry.path}: {error}",
                hint="Its weights are damaged, or its training diverged.",
            ) from error

    results: list[tuple[Finding, ...]] = []
    with ThreadPoolExecutor(workers) as pool:
        try:
            for findings in pool.map(detect, entries):
                results.append(findings)
                on_image(len(results), len(entries))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results
