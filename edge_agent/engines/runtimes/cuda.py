"""The part of CUDA that an engine needs: device memory, copies and a stream.

One protocol is implemented over NVIDIA's cuda-python and over pycuda. Both use the device's primary
context, in which TensorRT computes, too.
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
"""Packages of CUDA bindings for Python, the preferred one first."""

Array = NDArray[np.generic]
Foreign = Any
"""An object of a package without types."""


class CudaDevice(Protocol):
    """An NVIDIA GPU. Addresses and stream handles are plain integers.

    The methods after `use` are called inside `with device.use()`, on the same thread.
    """

    @property
    def name(self) -> str:
        """The GPU's name, such as `NVIDIA L4`."""
        ...

    @property
    def capability(self) -> str:
        """The compute capability, such as `8.9`."""
        ...

    def use(self) -> AbstractContextManager[None]:
        """Make the device current on this thread inside a `with` block."""
        ...

    def allocate(self, size_bytes: int) -> int:
        """Allocate device memory and return its address."""
        ...

    def free(self, address: int) -> None:
        """Free device memory."""
        ...

    def stream(self) -> int:
        """Create a stream, on which work runs in the order in which it was queued."""
        ...

    def end_stream(self, stream: int) -> None:
        """Destroy a stream."""
        ...

    def upload(self, host: Array, address: int, stream: int) -> None:
        """Queue a copy to the device; `host` is contiguous and is kept until `wait` returns."""
        ...

    def download(self, address: int, host: Array, stream: int) -> None:
        """Queue a copy from the device; `host` is contiguous and is filled when `wait` returns."""
        ...

    def wait(self, stream: int) -> None:
        """Wait until all queued work is done."""
        ...

    def close(self) -> None:
        """Release the device."""
        ...


def translate_cuda_errors(action: str) -> AbstractContextManager[None]:
    """Convert exceptions of CUDA's packages to EngineFailed; see `io_check.translate_errors`."""
    return translate_errors("CUDA", action)


def find_cuda_bindings() -> str | None:
    """Return the package that `open_cuda_device` uses, if any, without importing it."""
    return next((name for name in BINDINGS if _is_installed(name)), None)


def open_cuda_device() -> CudaDevice:
    """Open the first GPU of this machine through the preferred package that is installed.

    Raises:
        EngineFailed: there is no package, no driver or no GPU, or the GPU cannot be used.
    """
    found = find_cuda_bindings()
    if found is None:
        raise EngineFailed(
            "neither cuda-python nor pycuda is installed",
            hint="Install the extra `tensorrt` from Hilum's repository: "
            "uv sync --extra edge --extra tensorrt, or pip install '.[edge,tensorrt]'.",
        )
    with translate_cuda_errors("open the GPU"):
        return CudaPythonDevice() if found == BINDINGS[0] else PyCudaDevice()


class CudaPythonDevice:
    """A `CudaDevice` over cuda-python's driver API, which works with every recent driver."""

    def __init__(self) -> None:
        """Retain the first GPU's primary context."""
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
        """Return the result of a call, whose first value is a status."""
        status, *results = answer
        if status != self._cuda.CUresult.CUDA_SUCCESS:
            raise EngineFailed(f"CUDA refused: {status.name}")
        return results[0] if results else None


class PyCudaDevice:
    """A `CudaDevice` over pycuda."""

    def __init__(self) -> None:
        """Retain the first GPU's primary context."""
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


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # The parent package is not installed either.
        return False
