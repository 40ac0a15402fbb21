"""The ONNX Runtime engine: runs a bundle's ONNX graph on this machine's processor.

Scaling and the one grey channel are part of the graph, as for OpenVINO. Waiting threads do not
spin, so an idle agent uses no processor time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnxruntime as ort

from edge_agent.engines.base import MAX_BATCH, Pixels, RawOutputs, iter_batches
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.hardware import read_cpu_name
from edge_agent.engines.io_check import (
    ANY,
    TensorForm,
    check_batch,
    check_finite,
    check_model_form,
    make_blank_batch,
    translate_errors,
)
from edge_agent.errors import BundleInvalid, EngineFailed
from hilum.manifest import EngineVariant

_ERRORS_ONLY: Final = 3
_DTYPES: Final = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


@dataclass(frozen=True, slots=True)
class OnnxRuntimeOptions:
    """Options of an ONNX Runtime engine.

    Attributes:
        threads: threads that compute; 0 means one for each core that this process may use.
        streams: images that are inferred side by side, each on its share of the threads.
    """

    threads: int = 0
    streams: int = 1


DEFAULT_OPTIONS: Final = OnnxRuntimeOptions()


class OnnxRuntimeEngine:
    """An ONNX Runtime session; implements `engines.base.Engine`. Runs may overlap."""

    def __init__(
        self,
        bundle: Bundle,
        variant: EngineVariant,
        options: OnnxRuntimeOptions = DEFAULT_OPTIONS,
    ) -> None:
        """Load one of the bundle's variants and run it once.

        Args:
            bundle, variant: the model to run.
            options: threads and streams.

        Raises:
            BundleInvalid: the variant is for another runtime, or the model's input or output is
                not what the manifest declares.
            EngineFailed: the runtime cannot load or run the model.
        """
        if variant.runtime != "onnxruntime":
            raise BundleInvalid(f"{variant.name} is for {variant.runtime}, not for ONNX Runtime")
        self.name = variant.name
        self.compute_device = f"CPU: {read_cpu_name()}"
        self._input = bundle.manifest.input
        with translate_errors("ONNX Runtime", "load the model"):
            session = ort.InferenceSession(
                bundle.read(variant.model),
                _session_options(options),
                providers=["CPUExecutionProvider"],
            )
        check_model_form(
            _list_forms(session.get_inputs()), _list_forms(session.get_outputs()), bundle.manifest
        )
        self._input_name = session.get_inputs()[0].name
        self._output_name = session.get_outputs()[0].name
        self.max_batch = _fixed_batch(session) or MAX_BATCH
        # None means that the engine is closed. A run holds the session, so closing does not wait.
        self._session: ort.InferenceSession | None = session
        self.infer(make_blank_batch(self._input))

    def infer(self, batch: Pixels) -> RawOutputs:
        """Run the model, on at most `max_batch` images at once; see `engines.base.Engine.infer`."""
        check_batch(self.name, batch, self._input)
        session = self._session
        if session is None:
            raise EngineFailed(f"{self.name} is closed")
        with translate_errors("ONNX Runtime", "infer"):
            parts = [
                session.run(
                    [self._output_name],
                    {self._input_name: np.ascontiguousarray(images)},
                )[0]
                for images in iter_batches(batch, self.max_batch)
            ]
        outputs: RawOutputs = parts[0] if len(parts) == 1 else np.concatenate(parts)
        check_finite(self.name, outputs)
        return outputs

    def close(self) -> None:
        """Free the model once the runs in progress have ended. A second call does nothing."""
        self._session = None


def _session_options(options: OnnxRuntimeOptions) -> ort.SessionOptions:
    threads = options.threads or len(os.sched_getaffinity(0))
    made = ort.SessionOptions()
    # Set explicitly: by default the runtime binds its threads to cores, which others may be using.
    made.intra_op_num_threads = max(1, threads // options.streams)
    made.inter_op_num_threads = 1
    made.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    made.log_severity_level = _ERRORS_ONLY
    made.add_session_config_entry("session.intra_op.allow_spinning", "0")
    made.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return made


def _fixed_batch(session: ort.InferenceSession) -> int | None:
    """Return the graph's number of images; None if it leaves that open."""
    images = session.get_inputs()[0].shape[0]
    return images if isinstance(images, int) else None


def _list_forms(ports: Iterable[ort.NodeArg]) -> list[TensorForm]:
    return [
        TensorForm(
            _DTYPES.get(port.type, port.type),
            tuple(size if isinstance(size, int) else ANY for size in port.shape),
        )
        for port in ports
    ]
