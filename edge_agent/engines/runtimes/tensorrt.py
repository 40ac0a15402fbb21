"""The TensorRT engine: loads a plan from the bundle, or compiles the bundle's graph for this GPU.

If the bundle has a plan for the GPU's compute capability that was built by the installed package in
the installed version, that plan is loaded. Otherwise the variant's graph is compiled on this
machine and cached for the next start.

docs/tensorrt.md lists what this module has been run on.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edge_agent.engines.base import MAX_BATCH, Pixels, RawOutputs, iter_batches
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.compiled_cache import CompiledCache
from edge_agent.engines.hardware import list_nvidia_gpus
from edge_agent.engines.io_check import (
    ANY,
    TensorForm,
    check_batch,
    check_finite,
    check_model_form,
    make_blank_batch,
)
from edge_agent.engines.runtimes.cuda import CudaDevice, open_cuda_device, translate_cuda_errors
from edge_agent.engines.runtimes.tensorrt_runtime import (
    ExecutionContext,
    Runtime,
    TensorInfo,
    open_runtime,
)
from edge_agent.errors import BundleInvalid, EngineFailed
from hilum.manifest import EngineTarget, EngineVariant, Manifest

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TensorRtOptions:
    """Options of a TensorRT engine.

    `cache_dir` holds the plans that were compiled on this machine; it is made with mode 0700.
    """

    cache_dir: Path | None = None


DEFAULT_OPTIONS: Final = TensorRtOptions()
_OUTPUT_RANK: Final = 3


class TensorRtEngine:
    """A plan on a GPU; implements `engines.base.Engine`. Only one run executes at a time."""

    def __init__(
        self,
        bundle: Bundle,
        variant: EngineVariant,
        options: TensorRtOptions = DEFAULT_OPTIONS,
        *,
        runtime: Runtime | None = None,
        gpu: CudaDevice | None = None,
    ) -> None:
        """Load or compile one of the bundle's variants and run it once.

        Args:
            bundle, variant: the model to run.
            options: the cache folder.
            runtime: TensorRT; by default the preferred package that is installed.
            gpu: the GPU; by default the first one.

        Raises:
            BundleInvalid: the variant is for another runtime, or the engine's input or output is
                not what the manifest declares.
            ConfigInvalid: the cache folder is not private.
            EngineFailed: TensorRT or CUDA is not installed, there is no GPU, or the plan cannot be
                loaded, compiled or run.
        """
        if variant.runtime != "tensorrt":
            raise BundleInvalid(f"{variant.name} is for {variant.runtime}, not for TensorRT")
        self.name = variant.name
        self.max_batch = 1
        self._input = bundle.manifest.input
        runtime = runtime or open_runtime()
        self._gpu = gpu or open_cuda_device()
        self.compute_device = f"GPU: {self._gpu.name}"
        self._run_lock = threading.Lock()
        # None means that the engine is closed.
        self._session: _Session | None = None
        self._is_released = False
        try:
            with translate_cuda_errors("load the engine"), self._gpu.use():
                plan = _load_plan(bundle, variant, runtime, self._gpu, options)
                self._session = _Session(self._gpu, plan, bundle.manifest)
            self.max_batch = plan.max_batch
            for images in range(1, self.max_batch + 1):
                self.infer(make_blank_batch(self._input, images))
        except BaseException:
            self.close()
            raise

    def infer(self, batch: Pixels) -> RawOutputs:
        """Run the model, on at most `max_batch` images at once; see `engines.base.Engine.infer`."""
        check_batch(self.name, batch, self._input)
        with self._run_lock:
            if self._session is None:
                raise EngineFailed(f"{self.name} is closed")
            with translate_cuda_errors("infer"), self._gpu.use():
                runs = [self._session.run(images) for images in iter_batches(batch, self.max_batch)]
                outputs = np.concatenate(runs)
        check_finite(self.name, outputs)
        return outputs

    def close(self) -> None:
        """Free the GPU's memory once the run in progress has ended. A second call does nothing."""
        with self._run_lock:
            session, self._session = self._session, None
            if session is not None:
                with _log_errors(), self._gpu.use():
                    session.close()
            if not self._is_released:
                self._is_released = True
                with _log_errors():
                    self._gpu.close()


class _Session:
    """A loaded plan with its device memory and a stream. The GPU is current in every call."""

    def __init__(self, gpu: CudaDevice, plan: ExecutionContext, manifest: Manifest) -> None:
        source, result = _check_form(plan.ports, manifest)
        self._gpu, self._plan = gpu, plan
        self._shape = result.shape[1:]
        pixels = plan.max_batch * np.prod(source.shape[1:], dtype=int)
        values = plan.max_batch * np.prod(self._shape, dtype=int)
        outputs = values * np.dtype(np.float32).itemsize
        with contextlib.ExitStack() as undo:
            self._source = gpu.allocate(int(pixels))
            undo.callback(gpu.free, self._source)
            self._result = gpu.allocate(int(outputs))
            undo.callback(gpu.free, self._result)
            self._stream = gpu.stream()
            undo.callback(gpu.end_stream, self._stream)
            plan.bind(source.name, self._source)
            plan.bind(result.name, self._result)
            self._undo = undo.pop_all()

    def run(self, batch: Pixels) -> RawOutputs:
        """Run at most `max_batch` images, u8 (N, 1, H, W), to outputs f32 (N, rows, anchors)."""
        pixels = np.ascontiguousarray(batch)
        outputs = np.empty((len(batch), *self._shape), np.float32)
        self._gpu.upload(pixels, self._source, self._stream)
        if not self._plan.enqueue(len(batch), self._stream):
            raise EngineFailed("TensorRT did not accept the images")
        self._gpu.download(self._result, outputs, self._stream)
        self._gpu.wait(self._stream)
        return outputs

    def close(self) -> None:
        self._undo.close()


@contextlib.contextmanager
def _log_errors() -> Iterator[None]:
    """Log errors of the block: after a failed kernel CUDA refuses every call, also `free`."""
    try:
        with translate_cuda_errors("free the GPU's memory"):
            yield
    except EngineFailed as error:
        _log.warning("GPU memory was not freed", extra={"error": error.message})


def find_target(variant: EngineVariant, runtime: Runtime, capability: str) -> EngineTarget | None:
    """Return the plan compiled ahead of time that this runtime can load on such a GPU, if any."""
    for target in variant.targets:
        built_by = (target.package, target.version)
        if built_by == (runtime.package, runtime.version) and capability in target.capabilities:
            return target
    return None


def _load_plan(
    bundle: Bundle,
    variant: EngineVariant,
    runtime: Runtime,
    gpu: CudaDevice,
    options: TensorRtOptions,
) -> ExecutionContext:
    target = find_target(variant, runtime, gpu.capability)
    if target is not None:
        return runtime.load(bundle.read(target.model))
    cache = CompiledCache.open(options.cache_dir) if options.cache_dir else None
    key = (
        bundle.manifest.files[variant.model].sha256,
        runtime.package,
        runtime.version,
        gpu.name,
        gpu.capability,
        repr(list_nvidia_gpus()),
        str(MAX_BATCH),
    )
    if cache and (cached := cache.load(*key)) is not None:
        with contextlib.suppress(EngineFailed):  # The runtime may refuse an undamaged plan.
            return runtime.load(cached)
    content = runtime.build(bundle.read(variant.model)).content
    if cache:
        cache.store(content, *key)
    return runtime.load(content)


def _check_form(ports: tuple[TensorInfo, ...], manifest: Manifest) -> tuple[TensorInfo, TensorInfo]:
    """Return the plan's one input and one output, if they are what the manifest declares."""
    inputs = [port for port in ports if port.is_input]
    outputs = [port for port in ports if not port.is_input]
    check_model_form(
        [TensorForm(port.dtype, port.shape) for port in inputs],
        [TensorForm(port.dtype, port.shape) for port in outputs],
        manifest,
    )
    source, result = inputs[0], outputs[0]
    if (
        len(result.shape) != _OUTPUT_RANK
        or result.shape[0] != source.shape[0]
        or ANY in result.shape[1:]
    ):
        raise BundleInvalid(
            f"the model takes {source} and gives {result}, expected one image or any number"
        )
    return source, result
