"""Opens engines. A runtime is imported only when it is needed, because it costs memory."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from edge_agent.core.engine_selection import ONE_AT_A_TIME, BatchPolicy
from edge_agent.engines.base import Engine
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.hardware import list_nvidia_gpus
from edge_agent.engines.runtimes.cuda import find_cuda_bindings
from edge_agent.engines.runtimes.tensorrt_runtime import find_tensorrt_packages
from edge_agent.errors import BundleInvalid
from hilum.manifest import EngineVariant

KNOWN: Final = ("openvino", "onnxruntime", "tensorrt")
"""Runtimes that this agent has an engine for; the first two have packages of the same name."""


def runtime_version(runtime: str) -> str | None:
    """Return an installed runtime's version without importing it; None if it cannot be used.

    TensorRT can be used only where there is a GPU and a package of CUDA bindings.
    """
    if runtime == "tensorrt":
        packages = find_tensorrt_packages()
        usable = packages and find_cuda_bindings() and list_nvidia_gpus()
        return " ".join(next(iter(packages.items()))) if usable else None
    if runtime not in KNOWN or find_spec(runtime) is None:
        return None
    try:
        return version(runtime)
    except PackageNotFoundError:
        return "unknown"  # The module comes from another distribution, such as a GPU build.


def open_engine(
    bundle: Bundle,
    variant: EngineVariant,
    *,
    threads: int = 0,
    cache_dir: Path | None = None,
    batch: BatchPolicy = ONE_AT_A_TIME,
) -> Engine:
    """Load one of a bundle's variants and warm it.

    Args:
        bundle, variant: the model to run.
        threads: threads that compute; 0 means one for each core.
        cache_dir: the agent's cache; compiled models have a folder in it.
        batch: how images will be given to the engine.

    Returns:
        The engine. The caller closes it.

    Raises:
        BundleInvalid: the model is not what the manifest declares, or this agent lacks its runtime.
        ConfigInvalid: the cache folder is not private.
        EngineFailed: the runtime cannot load or run the model.
    """
    if variant.runtime == "openvino":
        from edge_agent.engines.runtimes.openvino import OpenVinoEngine, OpenVinoOptions  # noqa: PLC0415

        parallel = batch.parallel_requests if batch.parallel_requests > 1 else 0
        return OpenVinoEngine(
            bundle,
            variant,
            OpenVinoOptions(
                threads=threads,
                streams=parallel,
                cache_dir=cache_dir / "compiled" if cache_dir else None,
            ),
        )
    if variant.runtime == "onnxruntime":
        from edge_agent.engines.runtimes.onnxruntime import OnnxRuntimeEngine, OnnxRuntimeOptions  # noqa: PLC0415

        return OnnxRuntimeEngine(
            bundle, variant, OnnxRuntimeOptions(threads=threads, streams=batch.parallel_requests)
        )
    if variant.runtime == "tensorrt":
        from edge_agent.engines.runtimes.tensorrt import TensorRtEngine, TensorRtOptions  # noqa: PLC0415

        return TensorRtEngine(
            bundle, variant, TensorRtOptions(cache_dir / "compiled" if cache_dir else None)
        )
    raise BundleInvalid(
        f"{variant.name} is for {variant.runtime}, which this agent has no engine for"
    )
