"""Runs the content check: decides from pixels whether an image is an upright frontal chest.

Its network is a member of the bundle. It runs in OpenVINO on one thread in f32, whichever engine
runs the detector; alone and warm it takes 0.2 ms (docs/content-check.md).
"""

from __future__ import annotations

import threading
from typing import Final, Protocol

import cv2
import numpy as np
import openvino as ov

from edge_agent.core.content_check import (
    OUTPUTS,
    ContentOutputsInvalid,
    ContentProbabilities,
    ContentVerdict,
    assess_content,
)
from edge_agent.core.geometry import Letterbox
from edge_agent.engines.base import Pixels
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.runtimes.openvino_core import new_core, run_request
from edge_agent.errors import BundleInvalid, EngineFailed
from hilum.manifest import ContentCheckSpec, InputSpec

_HALVE_FROM: Final = 4
_SETTINGS: Final = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_NUM_THREADS": 1,
    "INFERENCE_PRECISION_HINT": "f32",
    "ENABLE_CPU_PINNING": False,  # A pinned thread would wait for a core that the detector uses.
}


class ContentChecker(Protocol):
    """Classifies an image before the detector runs. May be called from any thread."""

    def judge(self, pixels: Pixels) -> ContentVerdict:
        """Return the verdict on one image.

        Args:
            pixels: u8 (H, W), bright where X-rays were absorbed, of any size; the detector's input
                may be given, with its padding or without.

        Returns:
            The probabilities, a refusal or none, and warnings.

        Raises:
            EngineFailed: the network did not compute an output.
        """
        ...

    def close(self) -> None:
        """Free the network."""
        ...


class OpenVinoContentChecker:
    """A bundle's content check; implements `ContentChecker`."""

    def __init__(self, xml: bytes, weights: bytes, spec: ContentCheckSpec) -> None:
        """Compile a network and run it once.

        Args:
            xml, weights: the OpenVINO IR.
            spec: the manifest's `content_check`.

        Raises:
            BundleInvalid: the network's input or output is not what the manifest declares.
            EngineFailed: the runtime cannot compile or run it.
        """
        self._spec = spec
        self._lock = threading.Lock()
        try:
            core = new_core()
            compiled = core.compile_model(core.read_model(xml, weights), "CPU", _SETTINGS)
        except Exception as error:
            raise EngineFailed(f"OpenVINO could not load the content check: {error}") from error
        _check_form(compiled, spec.input)
        self._request: ov.InferRequest | None = compiled.create_infer_request()
        self.judge(np.full((spec.input.height, spec.input.width), spec.input.pad_value, np.uint8))

    @classmethod
    def of(cls, bundle: Bundle) -> OpenVinoContentChecker | None:
        """Return the content check of a bundle, compiled; None if the bundle has none.

        Raises:
            BundleInvalid, EngineFailed: as the constructor.
        """
        spec = bundle.manifest.content_check
        if spec is None:
            return None
        return cls(bundle.read(spec.model), bundle.read(spec.weights), spec)

    def judge(self, pixels: Pixels) -> ContentVerdict:
        """Return the verdict on one image; see `ContentChecker.judge`."""
        batch = shrink_to_input(pixels, self._spec.input)[None, None]
        with self._lock:
            if self._request is None:
                raise EngineFailed("the content check is closed")
            try:
                seen = ContentProbabilities.from_outputs(run_request(self._request, batch)[0])
            except ContentOutputsInvalid as error:
                raise EngineFailed(f"the content check gave {error}") from error
            except Exception as error:
                raise EngineFailed(f"OpenVINO could not run the content check: {error}") from error
        return assess_content(seen, self._spec.thresholds)

    def close(self) -> None:
        """Free the network. A second call does nothing."""
        with self._lock:
            self._request = None


def shrink_to_input(pixels: Pixels, spec: InputSpec) -> Pixels:
    """Letterbox an image into the content check's input.

    Args:
        pixels: u8 (H, W) of any size.
        spec: the input that the network takes.

    Returns:
        u8 (height, width).

    Raises:
        EngineFailed: the image is not u8 (H, W), or is empty.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or not pixels.size:  # noqa: PLR2004 - rows, columns
        raise EngineFailed(
            f"an image of {pixels.dtype} {pixels.shape}; the content check takes u8 (H, W)"
        )
    rows, columns = pixels.shape
    box = Letterbox.fit(rows, columns, spec.height, spec.width)
    # Halving first takes a quarter of the time, because OpenCV has a fast path for whole ratios.
    while min(rows / box.inner_height, columns / box.inner_width) >= _HALVE_FROM:
        rows, columns = rows // 2, columns // 2
        even = pixels[: 2 * rows, : 2 * columns]
        pixels = cv2.resize(even, (columns, rows), interpolation=cv2.INTER_AREA)
    placed = np.full((spec.height, spec.width), spec.pad_value, np.uint8)
    placed[box.top : box.top + box.inner_height, box.left : box.left + box.inner_width] = (
        cv2.resize(pixels, (box.inner_width, box.inner_height), interpolation=cv2.INTER_AREA)
    )
    return placed


def _check_form(compiled: ov.CompiledModel, spec: InputSpec) -> None:
    inputs = [(port.element_type.to_string(), tuple(port.shape)) for port in compiled.inputs]
    outputs = [(port.element_type.to_string(), tuple(port.shape)) for port in compiled.outputs]
    if inputs != [("u8", (1, 1, spec.height, spec.width))] or outputs != [("f32", (1, OUTPUTS))]:
        raise BundleInvalid(
            f"the content check takes {inputs} and gives {outputs}, not what the manifest declares"
        )
