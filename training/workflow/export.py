"""The stages that write graphs: float graphs of the run's weights, and TensorRT engines.

weights.pt -> export -> export/ -> quantize -> export/ -> compile (GPUs) -> export/ -> parity.json
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from edge_agent.engines.runtimes.tensorrt_runtime import open_runtime
from hilum.manifest import HeadSpec, InputSpec
from training.bundle.layout import (
    CARD_FP16,
    FLOAT_BIN,
    FLOAT_XML,
    ONNX,
)
from training.config import Config
from training.errors import TrainingError
from training.export.artifacts import (
    ExportArtifacts,
    ExportManifest,
    digest_files,
    load_artifacts,
    save_artifacts,
)
from training.export.dynamic_batch import open_batch_dimension
from training.export.float16 import convert_to_float16
from training.export.onnx import (
    export_float_ir,
    export_onnx,
    store_weights_as_float16,
)
from training.export.tensorrt import build_engines
from training.models.network import load_model
from training.progress import ProgressCallback, ignore_progress
from training.train.checkpoints import WEIGHTS

FOLDER: Final = "export"


def export_graphs(
    config: Config, on_progress: ProgressCallback = ignore_progress
) -> ExportArtifacts:
    """Write the float graphs of the run's weights; graphs of earlier weights are removed.

    Raises:
        TrainingError: there are no weights, or they cannot be exported.
    """
    path = config.out / WEIGHTS
    if not path.is_file():
        raise TrainingError(f"there are no weights {path}", hint="Run `hilum-train run` first.")
    size = config.train.input_size
    on_progress("export", 0, 3)
    onnx = export_onnx(load_model(path, config.train.architecture), size, size)
    on_progress("export", 1, 3)
    members = {
        ONNX: store_weights_as_float16(onnx),
        CARD_FP16: convert_to_float16(open_batch_dimension(onnx)),
    }
    if config.export.float_ir:
        members |= dict(zip((FLOAT_XML, FLOAT_BIN), export_float_ir(onnx), strict=True))
    on_progress("export", 2, 3)
    manifest = ExportManifest(
        weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        input=InputSpec(height=size, width=size),
        head=HeadSpec(),
        files=digest_files(members),
    )
    exported = ExportArtifacts(manifest, members)
    save_artifacts(config.out / FOLDER, exported)
    on_progress("export", 3, 3)
    return exported


def compile_engines(
    config: Config,
    capabilities: Sequence[str] = (),
    on_progress: ProgressCallback = ignore_progress,
) -> ExportArtifacts:
    """Add TensorRT engines for stated compute capabilities; needs no GPU.

    Raises:
        TrainingError: nothing is exported yet, or no engine came out.
        EngineFailed: tensorrt_rtx is not installed, or cannot compile for one of them.
    """
    runtime = open_runtime("tensorrt_rtx")
    exported = load_artifacts(config.out / FOLDER)
    wanted = tuple(capabilities) or config.export.capabilities
    built = build_engines(exported.graphs, wanted, runtime, on_progress)
    made = exported.with_graphs(built.graphs)
    manifest = made.manifest.model_copy(update={"inspections": built.inspections})
    made = replace(made, manifest=manifest)
    save_artifacts(config.out / FOLDER, made)
    return made
