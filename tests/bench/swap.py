"""The delay of requests while the model is replaced, beside the same load without a change.

One client sends RG1 again and again. In turns, the served model stays, and is replaced by the other
bundle that comes with the package: chosen, opened and tested beside the requests.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from edge_agent.engines.bundle import shipped_bundles
from hilum.v1 import detection_pb2 as pb
from hilum.v1 import detection_pb2_grpc
from hilum.v1 import model_control_pb2 as control_pb
from hilum.v1.model_control_pb2_grpc import ModelControlStub
from tests.bench.load import images
from tests.support.agents.tagged import agent_process, serving_line

TURNS = 6
QUIET_S = 6.0


class Client(threading.Thread):
    """Sends one image after the other, and keeps when each began and how long it took."""

    def __init__(self, address: str, image: bytes) -> None:
        super().__init__(name="client", daemon=True)
        self.spent: list[tuple[float, float]] = []
        self._address, self._image = address, image
        self._is_stopping = threading.Event()

    def run(self) -> None:
        """Send until stopped."""
        with grpc.insecure_channel(self._address) as channel:
            detector = detection_pb2_grpc.DetectorStub(channel)
            while not self._is_stopping.is_set():
                start = time.perf_counter()
                detector.Detect(pb.DetectRequest(image=self._image))
                self.spent.append((start, (time.perf_counter() - start) * 1e3))

    def stop(self) -> None:
        """Stop after the present image."""
        self._is_stopping.set()
        self.join()


def run() -> None:
    """Print the table."""
    bundles = [shipped_bundles()[name] for name in ("starter-hardswish", "starter")]
    name, image = next(iter(images().items()))
    with _agent() as (address, control):
        client = Client(address, image)
        client.start()
        intervals: dict[str, list[tuple[float, float]]] = {"no change": [], "change": []}
        for turn in range(TURNS):
            start = time.perf_counter()
            time.sleep(QUIET_S)
            intervals["no change"].append((start, time.perf_counter()))
            start = time.perf_counter()
            bundle = str(bundles[turn % 2].absolute())
            steps = list(control.ActivateModel(control_pb.ActivateModelRequest(bundle=bundle)))
            assert steps[-1].step == "active", steps[-1].reason
            intervals["change"].append((start, time.perf_counter()))
        client.stop()
    spent = {key: _within(client.spent, of) for key, of in intervals.items()}
    print(f"| {name}, one client | requests | median ms | p99 ms |")
    print("|---|---|---|---|")
    for key, times in spent.items():
        print(f"| {key} | {len(times)} | {statistics.median(times):.1f} | {_p99(times):.1f} |")
    medians = [statistics.median(times) for times in spent.values()]
    ratio = _p99(spent["change"]) / _p99(spent["no change"])
    share = medians[1] / medians[0]
    print(f"\nWith a change over without one: p99 {ratio:.2f}, median {share:.2f}")


def _within(spent: list[tuple[float, float]], intervals: list[tuple[float, float]]) -> list[float]:
    """Return the times of the requests that overlap one of the intervals."""
    return [
        ms
        for start, ms in spent
        if any(begin <= start + ms / 1e3 and start <= end for begin, end in intervals)
    ]


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


@contextmanager
def _agent() -> Iterator[tuple[str, ModelControlStub]]:
    with tempfile.TemporaryDirectory(prefix="h") as state:
        environment = {"HILUM_EDGE__STATE_DIR": str(Path(state) / "s")}
        with agent_process("--port", "0", environment=environment) as process:
            address = serving_line(process)["address"]
            with grpc.insecure_channel(f"unix:{state}/s/agent.sock") as channel:
                yield address, ModelControlStub(channel)
