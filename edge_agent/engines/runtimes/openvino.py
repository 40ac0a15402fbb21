"""The OpenVINO engine: runs a bundle's IR or ONNX graph on this machine's processor.

Scaling, layout and the one grey channel are part of the graph, so its input is u8 pixels.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import LifoQueue
from typing import Any, Final, Literal

import numpy as np
import openvino as ov

from edge_agent.engines.base import Pixels, RawOutputs
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.compiled_cache import CompiledCache
from edge_agent.engines.io_check import (
    TensorForm,
    check_batch,
    check_finite,
    check_model_form,
    make_blank_batch,
    translate_errors,
)
from edge_agent.engines.runtimes.openvino_core import new_core, run_request
from edge_agent.errors import BundleInvalid, EngineFailed
from hilum.manifest import EngineVariant, Manifest


@dataclass(frozen=True, slots=True)
class OpenVinoOptions:
    """Options of an OpenVINO engine; none changes the outputs beyond rounding.

    Attributes:
        device: OpenVINO's name of the compute device.
        threads, requests, streams: 0 leaves the number to the runtime.
        streams: images that are inferred side by side, each on its share of the threads.
        performance_hint: OpenVINO's hint of that name.
        inference_precision: that of the layers which are not INT8. `auto` is what the variant
            declares; an INT8 variant then uses BF16 where the processor computes it natively.
        cache_dir: a folder for compiled models between starts, made with mode 0700.
    """

    device: str = "CPU"
    threads: int = 0
    requests: int = 0
    streams: int = 0
    performance_hint: Literal["latency", "throughput"] = "latency"
    inference_precision: Literal["auto", "f32", "bf16", "f16"] = "auto"
    cache_dir: Path | None = None


DEFAULT_OPTIONS: Final = OpenVinoOptions()


class OpenVinoEngine:
    """A compiled model and a pool of infer requests; implements `engines.base.Engine`."""

    def __init__(
        self,
        bundle: Bundle,
        variant: EngineVariant,
        options: OpenVinoOptions = DEFAULT_OPTIONS,
    ) -> None:
        """Compile one of the bundle's variants, or load it from the cache, and run it once.

        Args:
            bundle, variant: the model to run.
            options: the compute device, threads, precision and cache folder.

        Raises:
            BundleInvalid: the variant is for another runtime, or the model's input or output is
                not what the manifest declares.
            ConfigInvalid: the cache folder is not private.
            EngineFailed: the runtime does not know the device, the processor does not compute the
                variant's precision, or the model cannot be compiled or run.
        """
        if variant.runtime != "openvino":
            raise BundleInvalid(f"{variant.name} is for {variant.runtime}, not for OpenVINO")
        self._name = variant.name
        self._input = bundle.manifest.input
        self._closing = threading.Lock()
        # None in the pool means that the engine is closed.
        self._pool: LifoQueue[ov.InferRequest | None] = LifoQueue()
        with translate_errors("OpenVINO", "load the model"):
            core = new_core()
            self._compute_device = f"{options.device}: {_processor(core, options)}"
            _check_precision(core, variant, options)
            compiled = _compile(core, bundle, variant, options)
            _check_form(compiled, bundle.manifest)
            self._output_shape = tuple(compiled.output(0).shape)[1:]
            self._requests = options.requests or _advised_requests(compiled)
            for _ in range(self._requests):
                self._pool.put(compiled.create_infer_request())
        self.infer(make_blank_batch(self._input))

    @property
    def name(self) -> str:
        """Return the bundle's engine variant."""
        return self._name

    @property
    def compute_device(self) -> str:
        """Return OpenVINO's device and the processor's name."""
        return self._compute_device

    @property
    def max_batch(self) -> int:
        """Return 1: the graphs take one image, and a CPU gains nothing by batches."""
        return 1

    def infer(self, batch: Pixels) -> RawOutputs:
        """Run the model on each image of the batch; see `engines.base.Engine.infer`."""
        check_batch(self._name, batch, self._input)
        outputs = np.empty((len(batch), *self._output_shape), np.float32)
        with self._request() as request, translate_errors("OpenVINO", "infer"):
            for image, answer in zip(batch, outputs, strict=True):
                pixels = np.ascontiguousarray(image[None])
                # The output is the request's own memory, so it is copied before the next use.
                answer[:] = run_request(request, pixels)[0]
        check_finite(self._name, outputs)
        return outputs

    def close(self) -> None:
        """Wait for the running requests, then free the model. A second call does nothing."""
        with self._closing:
            for _ in range(self._requests):
                if self._pool.get() is None:
                    break
            self._pool.put(None)

    @contextlib.contextmanager
    def _request(self) -> Iterator[ov.InferRequest]:
        request = self._pool.get()
        try:
            if request is None:
                raise EngineFailed(f"{self._name} is closed")
            yield request
        finally:
            self._pool.put(request)


def has_native_bf16(device: str = "CPU", core: ov.Core | None = None) -> bool:
    """Return True if a device computes BF16 in hardware, as variants of this precision need."""
    abilities = (core or new_core()).get_property(device, "OPTIMIZATION_CAPABILITIES")
    return "BF16" in abilities


def _processor(core: ov.Core, options: OpenVinoOptions) -> str:
    return str(core.get_property(options.device, "FULL_DEVICE_NAME")).strip()


def _advised_requests(compiled: ov.CompiledModel) -> int:
    return int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))


def _compile(
    core: ov.Core, bundle: Bundle, engine: EngineVariant, options: OpenVinoOptions
) -> ov.CompiledModel:
    settings = _settings(engine, options)
    cache = CompiledCache.open(options.cache_dir) if options.cache_dir else None
    key = _cache_key(core, bundle.manifest, engine, options)
    if cache and (blob := cache.load(*key)) is not None:
        # The runtime may refuse an undamaged blob, for example after its libraries have changed.
        with contextlib.suppress(RuntimeError):
            return core.import_model(blob, options.device, settings)
    weights = bundle.read(engine.weights) if engine.weights else b""
    model = core.read_model(bundle.read(engine.model), weights)
    compiled = core.compile_model(model, options.device, settings)
    if cache:
        cache.store(compiled.export_model().getvalue(), *key)
    return compiled


def _settings(engine: EngineVariant, options: OpenVinoOptions) -> dict[str, Any]:
    settings: dict[str, Any] = {"PERFORMANCE_HINT": options.performance_hint.upper()}
    if options.threads:
        settings["INFERENCE_NUM_THREADS"] = options.threads
    if options.streams:
        settings["NUM_STREAMS"] = options.streams
    if (precision := _precision(engine, options)) != "auto":
        settings["INFERENCE_PRECISION_HINT"] = precision
    return settings


def _precision(engine: EngineVariant, options: OpenVinoOptions) -> str:
    """Return the precision of the layers that are not INT8: the option, else the variant's."""
    if options.inference_precision != "auto":
        return options.inference_precision
    return {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}.get(engine.precision, "auto")


def _check_precision(core: ov.Core, engine: EngineVariant, options: OpenVinoOptions) -> None:
    # Without BF16 units the runtime emulates BF16 slowly, or computes in f32 without notice.
    if _precision(engine, options) == "bf16" and not has_native_bf16(options.device, core):
        raise EngineFailed(f"{engine.name}: this processor does not compute BF16")


def _cache_key(
    core: ov.Core, manifest: Manifest, engine: EngineVariant, options: OpenVinoOptions
) -> tuple[str, ...]:
    """Return all that a compiled blob depends on."""
    abilities = core.get_property(options.device, "OPTIMIZATION_CAPABILITIES")
    digests = [manifest.files[path].sha256 for path in (engine.model, engine.weights) if path]
    settings = sorted((asdict(options) | _settings(engine, options)).items())
    return (*digests, ov.get_version(), _processor(core, options), repr(abilities), repr(settings))


def _check_form(compiled: ov.CompiledModel, manifest: Manifest) -> None:
    inputs, outputs = (
        [TensorForm(port.element_type.to_dtype().name, tuple(port.shape)) for port in ports]
        for ports in (compiled.inputs, compiled.outputs)
    )
    check_model_form(inputs, outputs, manifest)
    if outputs[0].shape[0] != 1:
        raise BundleInvalid(f"the model's output is {outputs[0]}, not one image's")
