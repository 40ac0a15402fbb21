"""What turns a picture into findings: an edge engine, or weights that are still in training.

Both go the clinic's way: its letterbox, the engine's raw outputs, `core.findings`; every score
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
"""u8 (H, W) -> findings in that picture's pixels, down to the head's score floor."""

Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""u8 (N, 1, height, width) -> raw outputs, f32 (N, 4 + classes, anchors)."""


def of_engine(engine: Engine, spec: InputSpec, head: HeadSpec) -> Detector:
    """What an edge engine finds."""
    return _detector(engine.infer, spec, head)


def of_network(
    network: DetectionModel, spec: InputSpec, head: HeadSpec, device: str = "cpu"
) -> Detector:
    """What a network of torch finds, in FP32; three input channels are summed into the grey one.

    Raises:
        TrainingError: torch has no such device here.
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
    """Findings of every image, in order.

    Args:
        entries: the labelled set.
        detector: may be called from several threads.
        workers: threads that read pictures and wait for the detector.
        on_image: told how many images are done, of how many.

    Raises:
        TrainingError: an image cannot be read, or the network's answer to it is no answer; none is
            skipped.
    """

    def look(entry: LabelledImage) -> tuple[Finding, ...]:
        try:
            return tuple(detector(entry.read_pixels()))
        except OutputsInvalid as error:
            raise TrainingError(
                f"the network gives no findings for {entry.path}: {error}",
                hint="Its weights are damaged, or its training went astray.",
            ) from error

    results: list[tuple[Finding, ...]] = []
    with ThreadPoolExecutor(workers) as pool:
        try:
            for findings in pool.map(look, entries):
                results.append(findings)
                on_image(len(results), len(entries))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results
