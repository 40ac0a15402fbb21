"""The choice of the CUDA package and the calls to it, tested with fake drivers that record calls.

The fake drivers prove nothing about real GPUs: docs/tensorrt.md lists what has been tested on them.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable
from enum import Enum
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_agent.engines.hardware import list_nvidia_gpus
from edge_agent.engines.runtimes.cuda import (
    CudaDevice,
    CudaPythonDevice,
    PyCudaDevice,
    find_cuda_bindings,
    open_cuda_device,
    translate_cuda_errors,
)
from edge_agent.errors import EngineFailed
from hilum.codes import ErrorCode
from tests.conftest import skip_or_fail

CUDA_PYTHON, PYCUDA = "cuda.bindings", "pycuda"
STREAM = 77


class Result(Enum):
    """The status that cuda-python returns first from every call."""

    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100


class FakeMemory:
    """A GPU's memory for both fake drivers; it records contexts, allocations and calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.held: dict[int, np.ndarray[Any, np.dtype[np.uint8]]] = {}
        self.streams: set[int] = set()
        self.contexts = 0
        self.users = 0

    @property
    def is_unused(self) -> bool:
        return not (self.held or self.streams or self.contexts or self.users)

    def retain(self, device: int = 0) -> str:
        assert device == 0
        self.contexts += 1
        return "context"

    def release(self, device: int = 0) -> None:
        assert device == 0
        self.contexts -= 1

    def push(self, context: str = "context") -> None:
        assert context == "context"
        self.users += 1

    def pop(self) -> str:
        self.users -= 1
        return "context"

    def allocate(self, size_bytes: int) -> int:
        assert self.users, "no context is current"
        address = 0x1000 * (1 + len(self.calls))
        self.calls.append(f"allocate {size_bytes}")
        self.held[address] = np.zeros(size_bytes, np.uint8)
        return address

    def free_address(self, address: int) -> None:
        assert self.users, "no context is current"
        self.calls.append("free")
        del self.held[address]

    def begin(self, flags: int) -> int:
        assert flags == 1, "the stream would wait for the default one"
        self.streams.add(STREAM)
        return STREAM

    def end(self, stream: int) -> None:
        self.streams.remove(stream)

    def upload(self, address: int, host: int, size_bytes: int, stream: int) -> None:
        assert stream in self.streams
        self.calls.append("to the card")
        ctypes.memmove(self.held[address].ctypes.data, host, size_bytes)

    def download(self, host: int, address: int, size_bytes: int, stream: int) -> None:
        assert stream in self.streams
        self.calls.append("from the card")
        ctypes.memmove(host, self.held[address].ctypes.data, size_bytes)

    def wait(self, stream: int) -> None:
        assert stream in self.streams
        self.calls.append("wait")


def cuda_python(memory: FakeMemory, **refuses: Result) -> ModuleType:
    """Return a fake `cuda.bindings.driver` with the functions in use.

    A call in `refuses` returns the given status.
    """
    functions: dict[str, Callable[..., Any]] = {
        "cuInit": lambda flags: None,
        "cuDeviceGet": lambda number: number,
        "cuDeviceGetName": lambda length, device: b"Fake 4000\0left over".ljust(length, b"\0"),
        "cuDeviceGetAttribute": lambda kind, device: {"major": 8, "minor": 9}[kind],
        "cuDevicePrimaryCtxRetain": memory.retain,
        "cuDevicePrimaryCtxRelease": memory.release,
        "cuCtxPushCurrent": memory.push,
        "cuCtxPopCurrent": memory.pop,
        "cuMemAlloc": memory.allocate,
        "cuMemFree": memory.free_address,
        "cuStreamCreate": memory.begin,
        "cuStreamDestroy": memory.end,
        "cuMemcpyHtoDAsync": memory.upload,
        "cuMemcpyDtoHAsync": memory.download,
        "cuStreamSynchronize": memory.wait,
    }

    def call(name: str, *arguments: Any) -> tuple[Any, ...]:
        if name in refuses:
            return (refuses[name], None)
        result = functions[name](*arguments)
        return (Result.CUDA_SUCCESS,) if result is None else (Result.CUDA_SUCCESS, result)

    module = ModuleType("cuda.bindings.driver")
    vars(module).update(
        {name: partial(call, name) for name in functions},
        CUresult=Result,
        CUstream_flags=SimpleNamespace(CU_STREAM_NON_BLOCKING=1),
        CUdevice_attribute=SimpleNamespace(
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR="major",
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR="minor",
        ),
    )
    return module


class Allocation:
    """An allocation as pycuda returns it: an object with an address."""

    def __init__(self, memory: FakeMemory, size_bytes: int) -> None:
        self._memory, self._address = memory, memory.allocate(size_bytes)

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        self._memory.free_address(self._address)


class Stream:
    """A stream as pycuda returns it: it is destroyed with the last reference."""

    handle = STREAM

    def __init__(self, memory: FakeMemory) -> None:
        self._memory = memory
        memory.begin(1)

    def __del__(self) -> None:
        self._memory.end(STREAM)

    def synchronize(self) -> None:
        self._memory.wait(STREAM)


def pycuda(memory: FakeMemory, **refuses: Exception) -> ModuleType:
    """Return a fake `pycuda.driver` with the functions in use.

    A call in `refuses` raises the given exception.
    """

    def device(number: int) -> SimpleNamespace:
        memory.retain(number)
        memory.release(number)
        return SimpleNamespace(
            name=lambda: "Fake 4000",
            compute_capability=lambda: (8, 9),
            retain_primary_context=lambda: (
                memory.retain() and SimpleNamespace(push=memory.push, detach=memory.release)
            ),
        )

    def upload(address: int, host: np.ndarray[Any, Any], stream: Stream) -> None:
        memory.upload(address, host.ctypes.data, host.nbytes, stream.handle)

    def download(host: np.ndarray[Any, Any], address: int, stream: Stream) -> None:
        memory.download(host.ctypes.data, address, host.nbytes, stream.handle)

    functions: dict[str, Callable[..., Any]] = {
        "init": lambda: None,
        "Device": device,
        "mem_alloc": partial(Allocation, memory),
        "Stream": partial(Stream, memory),
        "memcpy_htod_async": upload,
        "memcpy_dtoh_async": download,
    }

    def call(name: str, *arguments: Any) -> Any:
        if name in refuses:
            raise refuses[name]
        return functions[name](*arguments)

    module = ModuleType("pycuda.driver")
    vars(module).update(
        {name: partial(call, name) for name in functions}, Context=SimpleNamespace(pop=memory.pop)
    )
    return module


def install(monkeypatch: pytest.MonkeyPatch, **drivers: ModuleType) -> None:
    """Make these packages the only installed ones."""
    for package, name in (("cuda_python", CUDA_PYTHON), ("pycuda", PYCUDA)):
        driver = drivers.get(package)
        if driver is None:
            monkeypatch.setitem(sys.modules, name, None)
            continue
        package_module = ModuleType(name)
        package_module.__spec__ = ModuleSpec(name, None)
        package_module.__path__ = []
        if "." in name:
            root = name.partition(".")[0]
            parent = ModuleType(root)
            parent.__path__ = []
            monkeypatch.setitem(sys.modules, root, parent)
        monkeypatch.setitem(sys.modules, name, package_module)
        monkeypatch.setitem(sys.modules, f"{name}.driver", driver)


EACH_PACKAGE = pytest.mark.parametrize("package", ["cuda_python", "pycuda"])


def open_fake_device(
    package: str, memory: FakeMemory, monkeypatch: pytest.MonkeyPatch
) -> CudaDevice:
    driver = cuda_python(memory) if package == "cuda_python" else pycuda(memory)
    install(monkeypatch, **{package: driver})
    return open_cuda_device()


def test_cuda_python_is_preferred_to_pycuda(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = FakeMemory()
    both = {"cuda_python": cuda_python(memory), "pycuda": pycuda(memory)}
    install(monkeypatch, **both)
    assert find_cuda_bindings() == CUDA_PYTHON
    assert isinstance(open_cuda_device(), CudaPythonDevice)
    install(monkeypatch, pycuda=both["pycuda"])
    assert find_cuda_bindings() == PYCUDA
    assert isinstance(open_cuda_device(), PyCudaDevice)
    install(monkeypatch)
    assert find_cuda_bindings() is None
    with pytest.raises(EngineFailed, match="neither cuda-python nor pycuda is installed") as caught:
        open_cuda_device()
    assert "tensorrt" in caught.value.hint


@EACH_PACKAGE
def test_a_gpu_reports_its_name_and_capability(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = open_fake_device(package, FakeMemory(), monkeypatch)
    assert (card.name, card.capability) == ("Fake 4000", "8.9")


@EACH_PACKAGE
def test_copies_have_the_right_direction_and_all_memory_is_freed(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = FakeMemory()
    card = open_fake_device(package, memory, monkeypatch)
    sent = np.arange(6, dtype=np.float32).reshape(2, 3)
    received = np.full_like(sent, -1)
    with card.use():
        address, stream = card.allocate(sent.nbytes), card.stream()
        assert (type(address), stream) == (int, STREAM)
        card.upload(sent, address, stream)
        card.download(address, received, stream)
        card.wait(stream)
        card.free(address)
        card.end_stream(stream)
    card.close()
    np.testing.assert_array_equal(received, sent)
    np.testing.assert_array_equal(sent.ravel(), range(6))
    assert memory.calls == ["allocate 24", "to the card", "from the card", "wait", "free"]
    assert memory.is_unused


@EACH_PACKAGE
def test_the_context_is_popped_even_after_an_exception(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = FakeMemory()
    card = open_fake_device(package, memory, monkeypatch)
    users = []
    with contextlib.suppress(ValueError), card.use():
        users.append(memory.users)
        raise ValueError
    assert (users, memory.users) == ([1], 0)


def test_a_refusal_of_cuda_python_is_an_engine_error_with_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = FakeMemory()
    install(
        monkeypatch,
        cuda_python=cuda_python(memory, cuInit=Result.CUDA_ERROR_NO_DEVICE),
    )
    with pytest.raises(EngineFailed, match="CUDA refused: CUDA_ERROR_NO_DEVICE"):
        open_cuda_device()
    assert memory.is_unused
    full = cuda_python(memory, cuMemAlloc=Result.CUDA_ERROR_OUT_OF_MEMORY)
    install(monkeypatch, cuda_python=full)
    card = open_cuda_device()
    with pytest.raises(EngineFailed, match="CUDA_ERROR_OUT_OF_MEMORY") as caught, card.use():
        card.allocate(1 << 40)
    assert caught.value.code == EngineFailed.default_code != ErrorCode.INTERNAL
    card.close()
    assert memory.is_unused


def test_an_exception_of_pycuda_is_an_engine_error_with_its_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = FakeMemory()
    install(monkeypatch, pycuda=pycuda(memory, Device=RuntimeError("no such device")))
    with pytest.raises(EngineFailed, match="CUDA could not open the GPU: no such device"):
        open_cuda_device()
    full = pycuda(memory, mem_alloc=MemoryError("cuMemAlloc failed"))
    install(monkeypatch, pycuda=full)
    card = open_cuda_device()
    # As the engine calls it: inside `translate_cuda_errors`.
    with (
        pytest.raises(EngineFailed, match="CUDA could not load the engine: cuMemAlloc failed"),
        translate_cuda_errors("load the engine"),
        card.use(),
    ):
        card.allocate(1 << 40)
    card.close()
    assert memory.is_unused


def real_driver() -> ModuleType:
    """Return cuda-python's real module, which can be imported without a GPU."""
    try:
        found = find_spec(f"{CUDA_PYTHON}.driver")
    except ModuleNotFoundError:
        found = None
    if found is None:
        skip_or_fail("cuda-python is not installed")
    return import_module(f"{CUDA_PYTHON}.driver")


def test_the_real_package_has_all_names_of_the_fake_one() -> None:
    driver = real_driver()
    fake = cuda_python(FakeMemory())
    used = {name for name in vars(fake) if name.lower().startswith("cu")}
    assert {name for name in used if not hasattr(driver, name)} == set()
    assert driver.CUresult.CUDA_SUCCESS == 0
    assert driver.CUstream_flags.CU_STREAM_NON_BLOCKING == 1


@pytest.mark.skipif(
    bool(list_nvidia_gpus()), reason="there is a GPU: tests/integration/cards uses it"
)
def test_without_a_driver_the_real_package_gives_an_engine_error() -> None:
    real_driver()
    with pytest.raises(EngineFailed, match="CUDA"):
        open_cuda_device()
