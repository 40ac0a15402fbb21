"""The process of a probe: opens one candidate, runs its golden cases and times it.

A runtime that does not fit the processor can end with an illegal instruction or hang while it
compiles. That costs only this process.
"""

from __future__ import annotations

import json
import pkgutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np

from edge_agent.core.engine_selection import BatchPolicy
from edge_agent.engines.base import Engine, Pixels
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.content_check import OpenVinoContentChecker
from edge_agent.engines.golden import (
    GoldenResult,
    read_golden_image,
    run_content_check,
    run_golden,
)
from edge_agent.engines.selection.probe import ProbeJob, ProbeReady, TimingRequest
from edge_agent.errors import BundleInvalid, HilumError

_MAX_TEXT: Final = 500
_CLOCKS: Final[dict[str, Callable[[], float]]] = {
    "wall": time.perf_counter,
    "cpu": time.process_time,
}


def serve(channel: Connection[bytes, bytes]) -> None:
    """Open the engine, run the golden cases, then time it as often as requested."""
    try:
        job = ProbeJob(**json.loads(channel.recv_bytes()))
        bundle, engine, ready = open_candidate(job)
        timer = EngineTimer(engine, _read_images(bundle), job.parallel_requests)
    except Exception as error:  # noqa: BLE001  # any library's error is sent as the answer
        return send_answer(channel, describe_error(error))
    send_answer(channel, asdict(ready))
    while True:
        timing = TimingRequest(**json.loads(channel.recv_bytes()))
        try:
            answer = {"ms": timer.time(timing)}
        except Exception as error:  # noqa: BLE001  # any library's error is sent as the answer
            answer = describe_error(error)
        send_answer(channel, answer)


def open_candidate(job: ProbeJob) -> tuple[Bundle, Engine, ProbeReady]:
    """Open a candidate and run its golden cases.

    Returns:
        The bundle, the engine, and where it disagrees with the golden cases.

    Raises:
        BundleInvalid: the bundle's file was replaced, or cannot be used.
        Exception: the runtime's, if it cannot open or run the engine.
    """
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
    results: tuple[GoldenResult, ...] = run_golden(bundle, engine)
    if job.with_content_check and (checker := OpenVinoContentChecker.of(bundle)) is not None:
        results += run_content_check(bundle, checker.judge)
        checker.close()
    problems = "; ".join(f"{it.case}: {', '.join(it.problems)}" for it in results if it.problems)
    return bundle, engine, ProbeReady(problems[:_MAX_TEXT], engine.max_batch)


class EngineTimer:
    """An engine and the golden images that it is timed on."""

    def __init__(self, engine: Engine, golden_images: list[Pixels], threads: int) -> None:
        self._engine = engine
        self._golden_images = golden_images
        self._pool = ThreadPoolExecutor(threads)

    def time(self, timing: TimingRequest) -> float:
        """Return the milliseconds from the first call's start to the last one's end."""
        clock = _CLOCKS[timing.clock]
        batches = [self._batch(timing, call) for call in range(timing.calls)]
        start = clock()
        if timing.calls == 1:
            self._engine.infer(batches[0])
        else:
            for done in [self._pool.submit(self._engine.infer, batch) for batch in batches]:
                done.result()
        return (clock() - start) * 1e3

    def _batch(self, timing: TimingRequest, call: int) -> Pixels:
        first = timing.number + call * timing.images
        chosen = [
            self._golden_images[k % len(self._golden_images)]
            for k in range(first, first + timing.images)
        ]
        return np.stack(chosen)[:, None]


def describe_error(error: Exception) -> dict[str, Any]:
    """Return the answer that reports an error."""
    words = error.message if isinstance(error, HilumError) else f"{type(error).__name__}: {error}"
    return {"error": words[:_MAX_TEXT]}


def send_answer(channel: Connection[bytes, bytes], answer: dict[str, Any]) -> None:
    """Send an answer to the agent."""
    channel.send_bytes(json.dumps(answer).encode())


def _read_images(bundle: Bundle) -> list[Pixels]:
    spec, cases = bundle.manifest.input, bundle.golden.cases
    return [read_golden_image(bundle.read(case.image), spec) for case in cases]
