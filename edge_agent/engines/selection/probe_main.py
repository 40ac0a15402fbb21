"""The process in which one candidate is tried; `selection.probe` starts it.

A runtime that does not fit the processor can end with an illegal instruction or hang while it
compiles. That costs only this process.
"""

from __future__ import annotations

import json
import os
import pkgutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np

from edge_agent.core.engine_selection import BatchPolicy
from edge_agent.engines.base import Engine, Pixels
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.golden import read_golden_image, run_golden
from edge_agent.engines.selection.probe import ProbeJob, ProbeReady, TimingRequest
from edge_agent.errors import BundleInvalid, HilumError
from edge_agent.system.processes import die_with_parent

_NICENESS: Final = 5
_MAX_TEXT: Final = 500


def main() -> None:
    """Open the engine, run the golden cases, then time it as often as requested."""
    channel_fd, agent_pid = map(int, sys.argv[1:])
    die_with_parent(agent_pid)
    os.nice(_NICENESS)
    channel: Connection[bytes, bytes] = Connection(channel_fd)
    with suppress(EOFError, ConnectionError):
        _serve(channel)
    os._exit(0)  # Freeing a compiled model takes time that is not worth waiting for.


def _serve(channel: Connection[bytes, bytes]) -> None:
    try:
        bench, opened = _open(ProbeJob(**json.loads(channel.recv_bytes())))
    except Exception as error:  # noqa: BLE001  # any library's error is sent as the answer
        return _send(channel, _failure(error))
    _send(channel, asdict(opened))
    while True:
        timing = TimingRequest(**json.loads(channel.recv_bytes()))
        try:
            answer = {"ms": bench.time(timing)}
        except Exception as error:  # noqa: BLE001  # any library's error is sent as the answer
            answer = _failure(error)
        _send(channel, answer)


class EngineTimer:
    """An engine and the golden images that it is timed on."""

    def __init__(self, engine: Engine, golden_images: list[Pixels], threads: int) -> None:
        self._engine = engine
        self._golden_images = golden_images
        self._pool = ThreadPoolExecutor(threads)

    def time(self, timing: TimingRequest) -> float:
        """Return the milliseconds from the first call's start to the last one's end."""
        batches = [self._batch(timing, call) for call in range(timing.calls)]
        if timing.calls == 1:
            start = time.perf_counter()
            self._engine.infer(batches[0])
            return (time.perf_counter() - start) * 1e3
        start = time.perf_counter()
        for done in [self._pool.submit(self._engine.infer, batch) for batch in batches]:
            done.result()
        return (time.perf_counter() - start) * 1e3

    def _batch(self, timing: TimingRequest, call: int) -> Pixels:
        first = timing.number + call * timing.images
        chosen = [
            self._golden_images[k % len(self._golden_images)]
            for k in range(first, first + timing.images)
        ]
        return np.stack(chosen)[:, None]


def _open(job: ProbeJob) -> tuple[EngineTimer, ProbeReady]:
    open_engine = pkgutil.resolve_name(job.opener)
    bundle = Bundle.open(Path(job.bundle))
    if bundle.digest != job.digest:
        raise BundleInvalid("the bundle's file was replaced")
    engine: Engine = open_engine(
        bundle,
        bundle.variant(job.variant),
        threads=job.threads,
        cache_dir=Path(job.cache_dir),
        batch=BatchPolicy(parallel_requests=job.parallel_requests),
    )
    failed = [verdict for verdict in run_golden(bundle, engine) if not verdict.passed]
    problems = "; ".join(f"{verdict.case}: {', '.join(verdict.problems)}" for verdict in failed)
    spec = bundle.manifest.input
    golden_images = [
        read_golden_image(bundle.read(case.image), spec) for case in bundle.golden.cases
    ]
    opened = ProbeReady(problems=problems[:_MAX_TEXT], max_batch=engine.max_batch)
    return EngineTimer(engine, golden_images, job.parallel_requests), opened


def _failure(error: Exception) -> dict[str, Any]:
    words = error.message if isinstance(error, HilumError) else f"{type(error).__name__}: {error}"
    return {"error": words[:_MAX_TEXT]}


def _send(channel: Connection[bytes, bytes], answer: dict[str, Any]) -> None:
    channel.send_bytes(json.dumps(answer).encode())


if __name__ == "__main__":
    main()
