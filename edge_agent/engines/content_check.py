"""The gate by content, run: pixels in, verdict out, in well under a millisecond.

The network is a member of the bundle and runs in OpenVINO on one thread, whatever engine runs the
detector; in f32, since nothing is gained by less.
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
    "ENABLE_CPU_PINNING": False,  # never wait for a core that the detector has taken
}


class ContentChecker(Protocol):
    """Looks at a picture before the detector does. May be called from any thread."""

    def judge(self, pixels: Pixels) -> ContentVerdict:
        """Say what a picture shows.

        Args:
            pixels: u8 (H, W), bright where X-rays were absorbed, of any size; shrunk as for the
                detector, with its padding or without.

        Raises:
            EngineFailed: the network did not compute an answer.
        """
        ...

    def close(self) -> None:
        """Free the network."""
        ...


class OpenVinoContentChecker:
    """The gate of a bundle; implements `ContentChecker`."""

    def __init__(self, xml: bytes, weights: bytes, spec: ContentCheckSpec) -> None:
        """Compile a network and run it once.

        Raises:
            BundleInvalid: it does not take or give what the manifest says.
            EngineFailed: the runtime cannot compile or run it.
        """
        self._spec = spec
        self._lock = threading.Lock()
        try:
            core = new_core()
            compiled = core.compile_model(core.read_model(xml, weights), "CPU", _SETTINGS)
        except Exception as error:
            raise EngineFailed(f"OpenVINO could not load the gate: {error}") from error
        _check_form(compiled, spec.input)
        self._request: ov.InferRequest | None = compiled.create_infer_request()
        self.judge(np.full((spec.input.height, spec.input.width), spec.input.pad_value, np.uint8))

    @classmethod
    def of(cls, bundle: Bundle) -> OpenVinoContentChecker | None:
        """The gate that a bundle carries; None where it carries none.

        Raises:
            BundleInvalid, EngineFailed: as the constructor.
        """
        spec = bundle.manifest.content_check
        if spec is None:
            return None
        return cls(bundle.read(spec.model), bundle.read(spec.weights), spec)

    def judge(self, pixels: Pixels) -> ContentVerdict:
        """Say what a picture shows; see `ContentChecker.judge`."""
        batch = shrink_to_input(pixels, self._spec.input)[None, None]
        with self._lock:
            if self._request is None:
                raise EngineFailed("the gate is closed")
            try:
                seen = ContentProbabilities.from_outputs(run_request(self._request, batch)[0])
            except ContentOutputsInvalid as error:
                raise EngineFailed(f"the gate gave {error}") from error
            except Exception as error:
                raise EngineFailed(f"OpenVINO could not run the gate: {error}") from error
        return assess_content(seen, self._spec.thresholds)

    def close(self) -> None:
        """Free the network. A second call does nothing."""
        with self._lock:
            self._request = None


def shrink_to_input(pixels: Pixels, spec: InputSpec) -> Pixels:
    """Letterbox a picture u8 (H, W) into the gate's own small input, u8 (height, width).

    Raises:
        EngineFailed: the picture is no u8 (H, W), or empty.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or not pixels.size:  # noqa: PLR2004 - rows, columns
        raise EngineFailed(f"a picture of {pixels.dtype} {pixels.shape}; the gate takes u8 (H, W)")
    rows, columns = pixels.shape
    box = Letterbox.fit(rows, columns, spec.height, spec.width)
    # Halving first takes a quarter of the time: for whole ratios OpenCV has a quick path.
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
        raise BundleInvalid(f"the gate takes {inputs} and gives {outputs}, not what it should")
