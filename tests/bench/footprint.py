"""From the start of the process to SERVING, and the memory of all of an agent's processes."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from contextlib import suppress
from typing import Final

import grpc

from edge_agent.cli.benchmark import measure_memory_mb
from tests.bench.load import clients, images
from tests.bench.throughput import _drain
from tests.support.agents.tagged import agent_process, serving_line, wait_serving

STARTS: Final = 3
REQUESTS: Final = 200
CALLERS: Final = 32
_SAMPLED_EVERY_S: Final = 0.05
PORT: Final = 50931


def run() -> None:
    """Print both tables."""
    with tempfile.TemporaryDirectory(prefix="hilum-bench-") as cache:
        cold = _start_s(cache)
        warm = [_start_s(cache) for _ in range(STARTS)]
    print("| from exec to SERVING in the health service | s | target |\n|---|---|---|")
    print(f"| first start on a box: engines measured, models compiled | {cold:.1f} | |")
    print(f"| with a warm cache, median of {STARTS} | {statistics.median(warm):.2f} | < 3 |")
    print(f"| the slowest of these | {max(warm):.2f} | |")
    _print_memory()


def _start_s(cache: str) -> float:
    environment = {"HILUM_EDGE__CACHE_DIR": cache}
    start = time.perf_counter()
    with (
        agent_process("--port", str(PORT), environment=environment),
        grpc.insecure_channel(
            f"127.0.0.1:{PORT}",
            options=[(f"grpc.{it}_reconnect_backoff_ms", 50) for it in ("initial", "min", "max")],
        ) as channel,
    ):
        wait_serving(channel)
        return time.perf_counter() - start


def _print_memory() -> None:
    print("\n| memory of all processes together (PSS) | MB | target |\n|---|---|---|")
    with agent_process("--port", "0") as process:
        address = serving_line(process)["address"]
        threading.Thread(target=_drain, args=(process.stderr,), daemon=True).start()
        time.sleep(1)
        print(f"| ready, before the first image | {measure_memory_mb(process.pid):.0f} | < 450 |")
        for name, image in images().items():
            peak = _peak_mb(process.pid, address, image)
            print(f"| peak, {CALLERS} clients, {REQUESTS} images, {name} | {peak:.0f} | |")
        time.sleep(1)
        print(f"| a second later | {measure_memory_mb(process.pid):.0f} | |")
        time.sleep(35)
        print(f"| 35 s later | {measure_memory_mb(process.pid):.0f} | |")


def _peak_mb(pid: int, address: str, image: bytes) -> float:
    samples = [measure_memory_mb(pid)]
    over = threading.Event()

    def sample() -> None:
        while not over.wait(_SAMPLED_EVERY_S):
            with suppress(OSError):
                samples.append(measure_memory_mb(pid))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        with clients(address, CALLERS) as them:
            them.run(image, REQUESTS)
    finally:
        over.set()
        sampler.join()
    return max(samples)


if __name__ == "__main__":
    run()
