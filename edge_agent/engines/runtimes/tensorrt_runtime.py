"""A common interface to the packages `tensorrt` and `tensorrt_rtx`, which have the same Python API.

Graphs state the type of each value (f16, INT8), so they are built strongly typed and no flag sets
the precision. Only `tensorrt_rtx` can build for given compute capabilities, and needs no GPU for
that; both can build for the GPU of this machine. The layers of a compiled plan are read from the
build's log, the only place where they are listed without a GPU.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Final, Protocol

from edge_agent.engines.base import MAX_BATCH
from edge_agent.engines.io_check import ANY
from edge_agent.errors import EngineFailed

Foreign = Any
"""An object of TensorRT, which has no types."""

PACKAGES: Final = {
    "tensorrt": ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
    "tensorrt_rtx": ("tensorrt-rtx", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13"),
}
"""The packages, the preferred one first, each with the distributions that contain it."""

_COMMON_BATCH: Final = 4
"""The batch size that kernels are chosen for, if a graph leaves the number of images open."""

_LAYER: Final = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: (?P<rest>.*)$")
_DATATYPE: Final = re.compile(r"Datatype: (\w+)")
_CONVOLUTIONS: Final = {"correlation", "conv", "Convolution", "CaskConvolution"}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output of a plan: `dtype` by numpy's name; a first size of `ANY` is open."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_input: bool


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a compiled plan. `input_type` is the type of its first input."""

    name: str
    kind: str
    input_type: str

    @property
    def is_convolution(self) -> bool:
        """Return True if the layer is a convolution, under any of the compiler's names for it."""
        return self.kind in _CONVOLUTIONS


@dataclass(frozen=True, slots=True)
class Plan:
    """A compiled plan, serialised, with the layers that the build's log lists (perhaps none)."""

    content: bytes
    layers: tuple[Layer, ...]


class ExecutionContext(Protocol):
    """A plan that is loaded on the GPU."""

    @property
    def ports(self) -> tuple[TensorInfo, ...]:
        """Its inputs and outputs."""
        ...

    @property
    def max_batch(self) -> int:
        """The most images of one run."""
        ...

    def bind(self, name: str, address: int) -> None:
        """Set the device address of an input or output."""
        ...

    def enqueue(self, images: int, stream: int) -> bool:
        """Queue one run on at most `max_batch` images; return True if it was accepted."""
        ...


class Runtime(Protocol):
    """Loads and builds plans."""

    @property
    def package(self) -> str:
        """`tensorrt` or `tensorrt_rtx`."""
        ...

    @property
    def version(self) -> str:
        """The package's own version, to the last digit."""
        ...

    def check(self, capabilities: Sequence[str]) -> None:
        """Check that the package compiles for these compute capabilities, such as `8.9`.

        Raises:
            EngineFailed: the package does not compile for one of them, or compiles for this
                machine's GPU only.
        """
        ...

    def build(self, onnx: bytes, capabilities: Sequence[str] = ()) -> Plan:
        """Compile an ONNX graph for these compute capabilities, or for the GPU of this machine.

        A graph that leaves the number of images open is compiled for up to `MAX_BATCH`.

        Raises:
            EngineFailed: the graph cannot be parsed, or not be compiled for a GPU that old.
        """
        ...

    def load(self, plan: bytes) -> ExecutionContext:
        """Load a plan on the GPU of the current context.

        Raises:
            EngineFailed: the plan is damaged, or for another GPU or version.
        """
        ...


def find_tensorrt_packages() -> dict[str, str]:
    """Return the installed packages' versions, the preferred one first, without importing any."""
    found = {}
    for package, distributions in PACKAGES.items():
        if find_spec(package) is None:
            continue
        found[package] = "unknown"
        for name in distributions:
            with contextlib.suppress(PackageNotFoundError):
                found[package] = version(name)
    return found


def open_runtime(package: str | None = None) -> TensorRt:
    """Open the named package, or the preferred one of those installed.

    Raises:
        EngineFailed: the package is not installed, or cannot be imported.
    """
    installed = find_tensorrt_packages()
    chosen = package or next(iter(installed), None)
    if chosen not in installed:
        raise EngineFailed(
            f"{package or 'TensorRT'} is not installed",
            hint="Install the extra `tensorrt` (uv sync --extra tensorrt), which contains "
            "tensorrt-rtx-cu12. NVIDIA's own index has `tensorrt`.",
        )
    try:
        return TensorRt(chosen)
    except (ImportError, OSError) as error:
        raise EngineFailed(f"{chosen} cannot be imported: {error}") from error


class TensorRt:
    """A `Runtime` over the installed package. Not thread-safe; make one for each engine."""

    def __init__(self, package: str) -> None:
        """Import the package, which takes some hundred megabytes of memory."""
        self._trt: Foreign = importlib.import_module(package)
        self.package = package
        self.version = str(self._trt.__version__)
        self._log = _make_logger(self._trt)

    def build(self, onnx: bytes, capabilities: Sequence[str] = ()) -> Plan:
        """See `Runtime.build`."""
        trt = self._trt
        self._log.lines.clear()
        builder = trt.Builder(self._log)
        typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = builder.create_network(0 if typed is None else 1 << int(typed))
        parser = trt.OnnxParser(network, self._log)
        if not parser.parse(onnx):
            problems = [str(parser.get_error(k).desc()) for k in range(parser.num_errors)]
            raise EngineFailed(f"{self.package} cannot parse the graph: {problems[:2]}")
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        self._set_capabilities(config, capabilities)
        self._open_batch(builder, network, config)
        content = builder.build_serialized_network(network, config)
        if content is None:
            raise EngineFailed(f"{self.package} cannot compile the graph: {self._log.last_error}")
        return Plan(bytes(content), tuple(_parse_layers(self._log.lines)))

    def _open_batch(self, builder: Foreign, network: Foreign, config: Foreign) -> None:
        """Set the batch sizes of a graph that leaves its number of images open."""
        source = network.get_input(0)
        images, *size = tuple(source.shape)
        if images != ANY:
            return
        profile = builder.create_optimization_profile()
        profile.set_shape(source.name, (1, *size), (_COMMON_BATCH, *size), (MAX_BATCH, *size))
        if config.add_optimization_profile(profile) < 0:
            raise EngineFailed(f"{self.package} refuses batches: {self._log.last_error}")

    def load(self, plan: bytes) -> ExecutionContext:
        """See `Runtime.load`."""
        self._log.lines.clear()
        engine = self._trt.Runtime(self._log).deserialize_cuda_engine(plan)
        context = engine.create_execution_context() if engine else None
        if context is None:
            raise EngineFailed(f"{self.package} cannot load the engine: {self._log.last_error}")
        return _LoadedPlan(self._trt, engine, context)

    def check(self, capabilities: Sequence[str]) -> None:
        """See `Runtime.check`."""
        self._find_capabilities(capabilities)

    def _set_capabilities(self, config: Foreign, capabilities: Sequence[str]) -> None:
        if not capabilities:
            return
        found = self._find_capabilities(capabilities)
        config.num_compute_capabilities = len(found)
        for index, capability in enumerate(found):
            config.set_compute_capability(capability, index)

    def _find_capabilities(self, capabilities: Sequence[str]) -> list[Foreign]:
        known = getattr(self._trt, "ComputeCapability", None)
        if known is None:
            raise EngineFailed(
                f"{self.package} compiles for this machine's GPU only",
                hint="tensorrt_rtx compiles for given compute capabilities, without a GPU.",
            )
        names = {c: f"SM{c.replace('.', '')}" for c in capabilities}
        for capability, name in names.items():
            if name not in known.__members__:
                members = [m for m in known.__members__ if m.startswith("SM")]
                supported = sorted(map(_format_capability, members), key=float)
                raise EngineFailed(
                    f"{self.package} {self.version} does not compile for compute capability "
                    f"{capability}; it does for {', '.join(supported)}"
                )
        return [known.__members__[name] for name in names.values()]


class _LoadedPlan:
    """An `ExecutionContext`, which keeps the engine alive for as long as its context."""

    def __init__(self, trt: Foreign, engine: Foreign, context: Foreign) -> None:
        self._engine, self._context = engine, context
        names = [engine.get_tensor_name(k) for k in range(engine.num_io_tensors)]
        self.ports = tuple(
            TensorInfo(
                name,
                str(trt.nptype(engine.get_tensor_dtype(name)).__name__),
                tuple(engine.get_tensor_shape(name)),
                engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
            )
            for name in names
        )
        self._open_input = next((p for p in self.ports if p.is_input and p.shape[0] == ANY), None)
        self.max_batch = 1
        if self._open_input is not None:
            _smallest, _common, largest = engine.get_tensor_profile_shape(self._open_input.name, 0)
            self.max_batch = int(largest[0])

    def bind(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise EngineFailed(f"the engine has no tensor {name}")

    def enqueue(self, images: int, stream: int) -> bool:
        if self._open_input is not None:
            size = (images, *self._open_input.shape[1:])
            if not self._context.set_input_shape(self._open_input.name, size):
                return False
        return bool(self._context.execute_async_v3(stream))


def _make_logger(trt: Foreign) -> Foreign:
    """Return a logger that stores its messages; the base class is the package's own."""

    class Log(trt.ILogger):  # type: ignore[misc]  # known only at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[int, str]] = []

        def log(self, severity: Foreign, message: str) -> None:
            self.lines.append((int(severity), message))

        @property
        def last_error(self) -> str:
            errors = [message for severity, message in self.lines if severity <= 1]
            return errors[-1] if errors else "no reason given"

    return Log()


def _parse_layers(log: Sequence[tuple[int, str]]) -> Iterator[Layer]:
    """Yield the layers that a build's log lists after `Layers:`."""
    for _, message in log:
        if not message.startswith("Layers:"):
            continue
        for line in message.splitlines()[1:]:
            if found := _LAYER.match(line):
                first = _DATATYPE.search(found["rest"].partition("Constants:")[0])
                yield Layer(found["name"], found["kind"], first[1] if first else "")


def _format_capability(name: str) -> str:
    """Return the compute capability for a name such as `SM89`: `8.9`."""
    digits = name.removeprefix("SM")
    return f"{digits[:-1]}.{digits[-1]}"
