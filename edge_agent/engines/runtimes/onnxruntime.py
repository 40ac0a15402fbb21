"""The ONNX Runtime engine: a bundle's ONNX graph on this box's processor.

Scaling and the one grey channel are inside the graph, as for OpenVINO. Threads that wait do not
spin, so an idle box is idle.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnxruntime as ort

from edge_agent.core.findings import BOX_ROWS
from edge_agent.engines.base import MAX_BATCH, Pixels, RawOutputs, in_runs
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.hardware import cpu_model
from edge_agent.errors import BundleInvalid, EngineFailed, HilumError
from hilum.manifest import EngineVariant, InputSpec, Manifest

_ERRORS_ONLY: Final = 3


@dataclass(frozen=True, slots=True)
class OnnxRuntimeOptions:
    """How to run. `threads` of 0 means as many as this process may use.

    `streams` is how many images are computed side by side, each on its share of the threads.
    """

    threads: int = 0
    streams: int = 1


DEFAULT_OPTIONS: Final = OnnxRuntimeOptions()


class OnnxRuntimeEngine:
    """One session; implements `engines.base.Engine`. Runs of it do not disturb each other."""

    def __init__(
        self,
        bundle: Bundle,
        variant: EngineVariant,
        options: OnnxRuntimeOptions = DEFAULT_OPTIONS,
    ) -> None:
        """Load one of the bundle's variants and run it once.

        Raises:
            BundleInvalid: the variant is for another runtime, or the model's input or output is
                not what the manifest says.
            EngineFailed: the runtime cannot load or run the model.
        """
        if variant.runtime != "onnxruntime":
            raise BundleInvalid(f"{variant.name} is for {variant.runtime}, not for ONNX Runtime")
        self.name = variant.name
        self.compute_device = f"CPU: {cpu_model()}"
        self._input = bundle.manifest.input
        with _ours("load the model"):
            session = ort.InferenceSession(
                bundle.read(variant.model),
                _session_options(options),
                providers=["CPUExecutionProvider"],
            )
        _check_form(session, bundle.manifest)
        self._input_name = session.get_inputs()[0].name
        self._output_name = session.get_outputs()[0].name
        self.max_batch = _fixed_batch(session) or MAX_BATCH
        # None means: closed. A run holds the session itself, so closing waits for nobody.
        self._session: ort.InferenceSession | None = session
        self.infer(_blank(self._input))

    def infer(self, batch: Pixels) -> RawOutputs:
        """Run the model, on at most `max_batch` images at once; see `engines.base.Engine.infer`."""
        self._check(batch)
        session = self._session
        if session is None:
            raise EngineFailed(f"{self.name} is closed")
        with _ours("infer"):
            parts = [
                session.run(
                    [self._output_name],
                    {self._input_name: np.ascontiguousarray(images)},
                )[0]
                for images in in_runs(batch, self.max_batch)
            ]
        outputs: RawOutputs = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if not np.isfinite(outputs).all():
            raise EngineFailed(f"{self.name} gave outputs that are not finite")
        return outputs

    def close(self) -> None:
        """Free the model once what is in flight has ended. A second call does nothing."""
        self._session = None

    def _check(self, batch: Pixels) -> None:
        wanted = (self._input.channels, self._input.height, self._input.width)
        if batch.dtype != np.uint8 or batch.shape[1:] != wanted or not batch.size:
            raise EngineFailed(
                f"a batch of {batch.dtype} {batch.shape}; {self.name} takes u8 (N, *{wanted})"
            )


@contextlib.contextmanager
def _ours(act: str) -> Iterator[None]:
    """Turn whatever the runtime raises into EngineFailed; our own errors pass."""
    try:
        yield
    except HilumError:
        raise
    except Exception as error:
        raise EngineFailed(f"ONNX Runtime could not {act}: {error}") from error


def _session_options(options: OnnxRuntimeOptions) -> ort.SessionOptions:
    threads = options.threads or len(os.sched_getaffinity(0))
    made = ort.SessionOptions()
    # Given outright: left to itself it binds its threads to cores, which others may be using.
    made.intra_op_num_threads = max(1, threads // options.streams)
    made.inter_op_num_threads = 1
    made.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    made.log_severity_level = _ERRORS_ONLY
    made.add_session_config_entry("session.intra_op.allow_spinning", "0")
    made.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return made


def _fixed_batch(session: ort.InferenceSession) -> int | None:
    """The graph's number of images, or None where it leaves that open."""
    images = session.get_inputs()[0].shape[0]
    return images if isinstance(images, int) else None


def _check_form(session: ort.InferenceSession, manifest: Manifest) -> None:
    """One u8 input of one image, or of any number, and one f32 output with the manifest's rows."""
    spec = manifest.input
    inputs = [(port.type, tuple(port.shape[1:])) for port in session.get_inputs()]
    if inputs != [("tensor(uint8)", (spec.channels, spec.height, spec.width))]:
        raise BundleInvalid(f"the model's inputs are {inputs}, not what the manifest says")
    rows = BOX_ROWS + len(manifest.findings)
    outputs = [(port.type, tuple(port.shape[1:2])) for port in session.get_outputs()]
    if outputs != [("tensor(float)", (rows,))]:
        raise BundleInvalid(f"the model's outputs are {outputs}, not f32 (N, {rows}, anchors)")
    if _fixed_batch(session) not in {None, 1}:
        raise BundleInvalid("the model takes only batches of one fixed size")


def _blank(spec: InputSpec) -> Pixels:
    return np.full((1, spec.channels, spec.height, spec.width), spec.pad_value, np.uint8)
