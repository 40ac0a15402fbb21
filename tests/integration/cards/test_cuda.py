"""CUDA on a real GPU, through each package that provides it; skipped where there is none.

.venv/bin/python -m pytest tests/integration/cards/test_cuda.py -rs
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.engines.hardware import list_nvidia_gpus
from edge_agent.engines.runtimes.cuda import (
    CudaDevice,
    CudaPythonDevice,
    PyCudaDevice,
    translate_cuda_errors,
)
from edge_agent.errors import EngineFailed

pytestmark = pytest.mark.skipif(
    not list_nvidia_gpus(), reason="no NVIDIA GPU: CUDA is NOT tested here"
)

MEGABYTE = 1 << 20
CARDS: dict[str, Callable[[], CudaDevice]] = {
    "cuda.bindings": CudaPythonDevice,
    "pycuda": PyCudaDevice,
}

Array = NDArray[Any]


@pytest.fixture(params=CARDS)
def card(request: pytest.FixtureRequest) -> Iterator[CudaDevice]:
    package = request.param
    if find_spec(package.partition(".")[0]) is None or find_spec(package) is None:
        pytest.skip(f"{package} is not installed: NOT tested here")
    card = CARDS[package]()
    yield card
    card.close()


def copy_to_card_and_back(card: CudaDevice, content: Array, times: int = 1) -> list[Array]:
    """Copy to the GPU and back with an own stream and memory; return the copies."""
    copies = [np.empty_like(content) for _ in range(times)]
    with card.use():
        stream, address = card.stream(), card.allocate(content.nbytes)
        for copy in copies:
            card.upload(content, address, stream)
            card.download(address, copy, stream)
        card.wait(stream)
        card.free(address)
        card.end_stream(stream)
    return copies


def test_a_gpu_reports_its_name_and_capability(card: CudaDevice) -> None:
    assert any(card.name.removeprefix("NVIDIA ") in known for known in list_nvidia_gpus())
    major, minor = map(int, card.capability.split("."))
    assert (major, minor) >= (5, 0)


def test_a_copy_from_the_gpu_equals_what_was_copied_to_it(card: CudaDevice) -> None:
    content = np.random.default_rng(0).integers(0, 256, 7 * MEGABYTE + 1, dtype=np.uint8)
    for copy in copy_to_card_and_back(card, content, times=3):
        np.testing.assert_array_equal(copy, content)


def test_threads_use_a_gpu_in_parallel(card: CudaDevice) -> None:
    rng = np.random.default_rng(1)
    contents = [rng.standard_normal(MEGABYTE, np.float32) for _ in range(4)]
    are_equal: list[bool] = []

    def compare(content: Array) -> None:
        are_equal.extend(
            bool((it == content).all()) for it in copy_to_card_and_back(card, content, 20)
        )

    threads = [threading.Thread(target=compare, args=[it]) for it in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert are_equal == [True] * 80


def test_freed_memory_can_be_allocated_again(card: CudaDevice) -> None:
    with card.use():
        for _ in range(200):  # In sum more than any GPU has.
            card.free(card.allocate(2048 * MEGABYTE))


def test_a_failed_allocation_is_an_error_and_the_gpu_works_afterwards(card: CudaDevice) -> None:
    with (
        pytest.raises(EngineFailed, match=r"(?i)memory"),
        translate_cuda_errors("allocate"),
        card.use(),
    ):
        card.allocate(1 << 42)
    content = np.arange(MEGABYTE)
    np.testing.assert_array_equal(copy_to_card_and_back(card, content)[0], content)
