"""CUDA on a real card, through both packages that bring it. Skipped where there is none.

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
    not list_nvidia_gpus(), reason="no NVIDIA card: CUDA is NOT tested here"
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
    opened = CARDS[package]()
    yield opened
    opened.close()


def there_and_back(card: CudaDevice, content: Array, times: int = 1) -> list[Array]:
    """Up to the card and down again, on a stream and memory of its own."""
    back = [np.empty_like(content) for _ in range(times)]
    with card.use():
        stream, address = card.stream(), card.allocate(content.nbytes)
        for copy in back:
            card.upload(content, address, stream)
            card.download(address, copy, stream)
        card.wait(stream)
        card.free(address)
        card.end_stream(stream)
    return back


def test_a_card_says_what_it_is(card: CudaDevice) -> None:
    assert any(card.name.removeprefix("NVIDIA ") in known for known in list_nvidia_gpus())
    major, minor = map(int, card.capability.split("."))
    assert (major, minor) >= (5, 0)


def test_what_goes_up_comes_down(card: CudaDevice) -> None:
    content = np.random.default_rng(0).integers(0, 256, 7 * MEGABYTE + 1, dtype=np.uint8)
    for copy in there_and_back(card, content, times=3):
        np.testing.assert_array_equal(copy, content)


def test_threads_use_a_card_side_by_side(card: CudaDevice) -> None:
    rng = np.random.default_rng(1)
    contents = [rng.standard_normal(MEGABYTE, np.float32) for _ in range(4)]
    right: list[bool] = []

    def copies(content: Array) -> None:
        right.extend(bool((it == content).all()) for it in there_and_back(card, content, 20))

    threads = [threading.Thread(target=copies, args=[it]) for it in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 80


def test_memory_that_is_freed_is_there_again(card: CudaDevice) -> None:
    with card.use():
        for _ in range(200):  # By and by more than any card has at once.
            card.free(card.allocate(2048 * MEGABYTE))


def test_more_memory_than_there_is_is_an_error_and_no_more(card: CudaDevice) -> None:
    with (
        pytest.raises(EngineFailed, match=r"(?i)memory"),
        translate_cuda_errors("allocate"),
        card.use(),
    ):
        card.allocate(1 << 42)
    content = np.arange(MEGABYTE)
    np.testing.assert_array_equal(there_and_back(card, content)[0], content)
