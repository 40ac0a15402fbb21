"""A fake card and a fake TensorRT in memory (see `engines.runtimes.cuda.CudaDevice`).

They show what the engine does with memory, streams and plans. Nothing here is CUDA or TensorRT, and
no test that uses them proves anything about either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from edge_agent.engines.runtimes.cuda import Array
from edge_agent.engines.runtimes.tensorrt_runtime import ANY, ExecutionContext, Plan, TensorInfo
from edge_agent.errors import EngineFailed
from tests.support.engines.bundles import ANCHORS, ROWS, SIZE
from tests.support.engines.variants import model_outputs

PORTS = (
    TensorInfo("images", "uint8", (1, 1, SIZE, SIZE), True),
    TensorInfo("outputs", "float32", (1, ROWS, ANCHORS), False),
)
OPEN_PORTS = tuple(replace(port, shape=(ANY, *port.shape[1:])) for port in PORTS)
"""Inputs and outputs of a plan for any number of images."""


@dataclass
class FakeCudaDevice:
    """Implements `engines.runtimes.cuda.CudaDevice`; work on a stream is done in `wait`."""

    name: str = "Fake 4000"
    capability: str = "8.9"
    memory: dict[int, np.ndarray[tuple[int], np.dtype[np.uint8]]] = field(default_factory=dict)
    streams: dict[int, list[object]] = field(default_factory=dict)
    users: int = 0
    closed: int = 0

    @contextmanager
    def use(self) -> Iterator[None]:
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1

    def allocate(self, size_bytes: int) -> int:
        assert self.users
        address = 4096 * (1 + len(self.memory) + max(self.memory, default=0))
        self.memory[address] = np.zeros(size_bytes, np.uint8)
        return address

    def free(self, address: int) -> None:
        assert self.users
        del self.memory[address]

    def stream(self) -> int:
        assert self.users
        self.streams[77] = []
        return 77

    def end_stream(self, stream: int) -> None:
        assert self.users
        del self.streams[stream]

    def upload(self, host: Array, address: int, stream: int) -> None:
        assert self.users
        self.streams[stream].append(
            lambda: np.copyto(self.memory[address][: host.nbytes], host.reshape(-1).view(np.uint8))
        )

    def download(self, address: int, host: Array, stream: int) -> None:
        assert self.users
        self.streams[stream].append(
            lambda: np.copyto(host.reshape(-1).view(np.uint8), self.memory[address][: host.nbytes])
        )

    def wait(self, stream: int) -> None:
        assert self.users
        for act in self.streams[stream]:
            act()  # type: ignore[operator]
        self.streams[stream].clear()

    def close(self) -> None:
        self.closed += 1


@dataclass
class FakePlan:
    """The transparent model of `support.engines.bundles`, computed in the fake device's memory."""

    card: FakeCudaDevice
    ports: tuple[TensorInfo, ...] = PORTS
    refuses: bool = False
    spoilt: bool = False
    max_batch: int = 1
    runs: list[int] = field(default_factory=list)
    bound: dict[str, int] = field(default_factory=dict)

    def bind(self, name: str, address: int) -> None:
        self.bound[name] = address

    def enqueue(self, images: int, stream: int) -> bool:
        if self.refuses or not 0 < images <= self.max_batch:
            return False
        self.runs.append(images)
        self.card.streams[stream].append(lambda: self._compute(images))
        return True

    def _compute(self, images: int) -> None:
        source = self.card.memory[self.bound["images"]]
        outputs = model_outputs(source[: images * SIZE * SIZE].reshape(images, 1, SIZE, SIZE))
        if self.spoilt:
            outputs[:] = np.nan
        raw_bytes = outputs.reshape(-1).view(np.uint8)
        np.copyto(self.card.memory[self.bound["outputs"]][: raw_bytes.size], raw_bytes)


@dataclass
class FakeRuntime:
    """Implements `engines.runtimes.tensorrt_runtime.Runtime`; it records builds and loads."""

    plan: FakePlan
    package: str = "tensorrt_rtx"
    version: str = "1.2.3"
    built: list[bytes] = field(default_factory=list)
    loaded: list[bytes] = field(default_factory=list)
    refused: frozenset[bytes] = frozenset()

    def check(self, capabilities: Sequence[str]) -> None:
        pass

    def build(self, onnx: bytes, capabilities: Sequence[str] = ()) -> Plan:
        self.built.append(onnx)
        return Plan(b"built here", ())

    def load(self, plan: bytes) -> ExecutionContext:
        if plan in self.refused:
            raise EngineFailed("made for another card")
        self.loaded.append(plan)
        return self.plan
