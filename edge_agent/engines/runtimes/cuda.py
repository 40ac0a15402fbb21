"""The little of CUDA that an engine needs: memory on the card, copies, a stream.

One small protocol over NVIDIA's cuda-python, or over pycuda where that is what is installed. Both
use the device's primary context, the one that TensorRT computes in.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.engines.io_check import translate_errors
from edge_agent.errors import EngineFailed

BINDINGS: Final = ("cuda.bindings", "pycuda")
"""Packages that bring CUDA to Python, the preferred one first."""

Array = NDArray[np.generic]
Foreign = Any
"""An object of a package without types."""


class CudaDevice(Protocol):
    """One NVIDIA card. Addresses and stream handles are plain integers.

    Whoever calls the methods below `use` is inside `with card.use()`, on that thread.
    """

    @property
    def name(self) -> str:
        """Its own name, such as `NVIDIA L4`."""
        ...

    @property
    def capability(self) -> str:
        """Its compute capability, such as `8.9`."""
        ...

    def use(self) -> AbstractContextManager[None]:
        """A context manager: this thread works with the card until it is left."""
        ...

    def allocate(self, size_bytes: int) -> int:
        """Reserve memory on the card."""
        ...

    def free(self, address: int) -> None:
        """Give memory back."""
        ...

    def stream(self) -> int:
        """A new stream: what is queued on it is done in order."""
        ...

    def end_stream(self, stream: int) -> None:
        """Give a stream back."""
        ...

    def upload(self, host: Array, address: int, stream: int) -> None:
        """Queue a copy to the card; `host` is contiguous and lives until `wait` returns."""
        ...

    def download(self, address: int, host: Array, stream: int) -> None:
        """Queue a copy from the card; `host` is contiguous, and filled when `wait` returns."""
        ...

    def wait(self, stream: int) -> None:
        """Wait until all that is queued is done."""
        ...

    def close(self) -> None:
        """Leave the card."""
        ...


def translate_cuda_errors(action: str) -> AbstractContextManager[None]:
    """Turn whatever CUDA's packages raise into EngineFailed; see `io_check.translate_errors`."""
    return translate_errors("CUDA", action)


def find_cuda_bindings() -> str | None:
    """The package that would be used, without importing it; None if there is none."""
    return next((name for name in BINDINGS if _is_there(name)), None)


def open_cuda_device() -> CudaDevice:
    """The first card of this box, through whichever package is installed.

    Raises:
        EngineFailed: no package, no driver, no card, or it cannot be used.
    """
    found = find_cuda_bindings()
    if found is None:
        raise EngineFailed(
            "neither cuda-python nor pycuda is installed",
            hint="Install the extra `tensorrt` from Hilum's repository: "
            "uv sync --extra edge --extra tensorrt, or pip install '.[edge,tensorrt]'.",
        )
    with translate_cuda_errors("open the card"):
        return CudaPythonDevice() if found == BINDINGS[0] else PyCudaDevice()


class CudaPythonDevice:
    """A `CudaDevice` through cuda-python's driver interface, which suits every recent driver."""

    def __init__(self) -> None:
        """Take the first card's primary context."""
        driver: Foreign = importlib.import_module("cuda.bindings.driver")
        self._cuda = driver
        self._call(driver.cuInit(0))
        self._device = self._call(driver.cuDeviceGet(0))
        name: bytes = self._call(driver.cuDeviceGetName(256, self._device))
        self.name = name.partition(b"\0")[0].decode()
        kinds = driver.CUdevice_attribute
        major, minor = (
            self._call(driver.cuDeviceGetAttribute(kind, self._device))
            for kind in (
                kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        self.capability = f"{major}.{minor}"
        self._context = self._call(driver.cuDevicePrimaryCtxRetain(self._device))

    @contextmanager
    def use(self) -> Iterator[None]:
        """See `CudaDevice.use`."""
        self._call(self._cuda.cuCtxPushCurrent(self._context))
        try:
            yield
        finally:
            self._call(self._cuda.cuCtxPopCurrent())

    def allocate(self, size_bytes: int) -> int:
        """See `CudaDevice.allocate`."""
        return int(self._call(self._cuda.cuMemAlloc(size_bytes)))

    def free(self, address: int) -> None:
        """See `CudaDevice.free`."""
        self._call(self._cuda.cuMemFree(address))

    def stream(self) -> int:
        """See `CudaDevice.stream`."""
        kind = self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING
        return int(self._call(self._cuda.cuStreamCreate(kind)))

    def end_stream(self, stream: int) -> None:
        """See `CudaDevice.end_stream`."""
        self._call(self._cuda.cuStreamDestroy(stream))

    def upload(self, host: Array, address: int, stream: int) -> None:
        """See `CudaDevice.upload`."""
        copy = self._cuda.cuMemcpyHtoDAsync
        self._call(copy(address, host.ctypes.data, host.nbytes, stream))

    def download(self, address: int, host: Array, stream: int) -> None:
        """See `CudaDevice.download`."""
        copy = self._cuda.cuMemcpyDtoHAsync
        self._call(copy(host.ctypes.data, address, host.nbytes, stream))

    def wait(self, stream: int) -> None:
        """See `CudaDevice.wait`."""
        self._call(self._cuda.cuStreamSynchronize(stream))

    def close(self) -> None:
        """See `CudaDevice.close`."""
        self._call(self._cuda.cuDevicePrimaryCtxRelease(self._device))

    def _call(self, answer: tuple[Foreign, ...]) -> Foreign:
        """The result of a call, which answers with a status first."""
        status, *results = answer
        if status != self._cuda.CUresult.CUDA_SUCCESS:
            raise EngineFailed(f"CUDA refused: {status.name}")
        return results[0] if results else None


class PyCudaDevice:
    """A `CudaDevice` through pycuda."""

    def __init__(self) -> None:
        """Take the first card's primary context."""
        driver: Foreign = importlib.import_module("pycuda.driver")
        driver.init()
        device = driver.Device(0)
        self._cuda = driver
        self.name = str(device.name())
        self.capability = ".".join(map(str, device.compute_capability()))
        self._context = device.retain_primary_context()
        self._memory: dict[int, Foreign] = {}
        self._streams: dict[int, Foreign] = {}

    @contextmanager
    def use(self) -> Iterator[None]:
        """See `CudaDevice.use`."""
        self._context.push()
        try:
            yield
        finally:
            self._cuda.Context.pop()

    def allocate(self, size_bytes: int) -> int:
        """See `CudaDevice.allocate`."""
        memory = self._cuda.mem_alloc(size_bytes)
        self._memory[int(memory)] = memory
        return int(memory)

    def free(self, address: int) -> None:
        """See `CudaDevice.free`."""
        self._memory.pop(address).free()

    def stream(self) -> int:
        """See `CudaDevice.stream`."""
        stream = self._cuda.Stream()
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def end_stream(self, stream: int) -> None:
        """See `CudaDevice.end_stream`."""
        del self._streams[stream]

    def upload(self, host: Array, address: int, stream: int) -> None:
        """See `CudaDevice.upload`."""
        self._cuda.memcpy_htod_async(address, host, self._streams[stream])

    def download(self, address: int, host: Array, stream: int) -> None:
        """See `CudaDevice.download`."""
        self._cuda.memcpy_dtoh_async(host, address, self._streams[stream])

    def wait(self, stream: int) -> None:
        """See `CudaDevice.wait`."""
        self._streams[stream].synchronize()

    def close(self) -> None:
        """See `CudaDevice.close`."""
        self._context.detach()


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # The package above it is not there either.
        return False
