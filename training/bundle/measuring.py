"""The engines that measure a bundle's variants on the machine that makes the bundle."""

from __future__ import annotations

from edge_agent.engines.base import Engine
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.runtimes.onnxruntime import OnnxRuntimeEngine, OnnxRuntimeOptions
from edge_agent.engines.runtimes.openvino import DEFAULT_OPTIONS, OpenVinoEngine, OpenVinoOptions
from hilum.manifest import EngineVariant


def measuring_engine(
    bundle: Bundle, variant: EngineVariant, options: OpenVinoOptions = DEFAULT_OPTIONS
) -> Engine:
    """Open the engine that measures a variant while its bundle is made.

    A TensorRT variant is measured on its own graph by ONNX Runtime on the CPU, because no GPU is
    needed to make a bundle: the same INT8 and f16 steps, rounded in another order. On a machine
    with a GPU its golden cases check the real engine.

    Args:
        bundle: the bundle.
        variant: one of its variants.
        options: options of OpenVINO; ONNX Runtime uses only the number of threads.

    Raises:
        EngineFailed: this CPU cannot run the variant, for example without BF16.
    """
    if variant.runtime in {"onnxruntime", "tensorrt"}:
        stand_in = variant.model_copy(update={"runtime": "onnxruntime", "targets": ()})
        return OnnxRuntimeEngine(bundle, stand_in, OnnxRuntimeOptions(threads=options.threads))
    return OpenVinoEngine(bundle, variant, options)
