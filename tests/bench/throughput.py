"""Images per second through gRPC, compared with bare loops on the same machine, alternating.

The clients run on the same cores as the agent: their share of the processor is shown, and the last
column leaves it out, as if they were other machines. See `tests.bench.load` for the bare loops.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections import defaultdict
from typing import Final

from edge_agent.config import load_settings
from tests.bench.load import BareLoop, clients, images
from tests.support.agents.tagged import agent_process, serving_line

ROUNDS: Final = 8
ROUND_S: Final = 2.0
CALLERS: Final = (8, 32)
TARGET: Final = 0.90
_THREADS, _PROCESSES = "bare loop, decode threads", "bare loop, decode processes"


def run() -> None:
    """Print a table for each kind of file."""
    settings = load_settings()
    bare = BareLoop(settings)
    threads = bare.model.batch_policy.parallel_requests
    print(
        f"Starter on {bare.model.engine.name}; {settings.decode.workers} decoders, "
        f"{threads} inference threads; medians of {ROUNDS} alternating rounds.\n"
        f"Target: at least {TARGET} of the bare loop."
    )
    with agent_process("--port", "0") as process:
        address = serving_line(process)["address"]
        threading.Thread(target=_drain, args=(process.stderr,), daemon=True).start()
        for name, image in images().items():
            _print_table(f"{name}, {len(image) / 1e6:.1f} MB", *_measure(bare, address, image))


def _drain(lines: object) -> None:
    for _line in lines or ():  # type: ignore[attr-defined]  # a pipe that is full would stop it
        pass


def _measure(
    bare: BareLoop, address: str, image: bytes
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Images per second, and the clients' processor seconds per image, by contestant and round."""
    rates: dict[str, list[float]] = defaultdict(list)
    client_s: dict[str, list[float]] = defaultdict(list)
    count = max(20, round(ROUND_S * bare.in_threads(image, 30)))
    for number in range(ROUNDS + 1):
        found = {
            _THREADS: bare.in_threads(image, count),
            _PROCESSES: bare.in_processes(image, count),
        }
        for callers in CALLERS:
            with clients(address, callers) as them:
                them.run(image, callers)
                before = time.process_time()
                found[f"gRPC, {callers} clients"] = them.run(image, count)
                client_s[f"gRPC, {callers} clients"].append((time.process_time() - before) / count)
        for name, rate in found.items():
            rates[name] += [rate] if number else []
    return rates, client_s


def _print_table(
    title: str, rates: dict[str, list[float]], client_s: dict[str, list[float]]
) -> None:
    print(
        f"\n| {title} | images/s | to threads | to processes | clients' share | without clients |"
    )
    print("|---|---|---|---|---|---|")
    for name, found in rates.items():
        rate = statistics.median(found)
        to_threads, to_processes = (
            statistics.median(a / b for a, b in zip(found, rates[base], strict=True))
            for base in (_THREADS, _PROCESSES)
        )
        row = f"| {name} | {rate:.1f} | {to_threads:.2f} | {to_processes:.2f} |"
        if name not in client_s:
            print(f"{row} | |")
            continue
        share = statistics.median(client_s[name]) * rate / _cores()
        print(f"{row} {share:.1%} | {to_threads / (1 - share):.2f} |")


def _cores() -> int:
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    run()
