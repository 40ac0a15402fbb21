"""Tries a candidate engine in a process of its own (`engines.engine_process`).

The agent starts one process for each candidate. It sends one job and then any number of timing
requests; each is answered by one message.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final, Literal, Protocol

from edge_agent.engines.engine_process import EngineProcess, EngineProcessFailed, ProcessLimits

_NO_LIMITS: Final = ProcessLimits()


@dataclass(frozen=True, slots=True)
class ProbeJob:
    """The engine to try.

    Attributes:
        bundle, digest: the bundle's file, and the digest that it must have.
        variant: the engine variant's name.
        threads: threads that compute; 0 means one for each core.
        cache_dir: the agent's cache.
        parallel_requests: the calls at once that the engine is compiled for.
        with_content_check: True if the bundle's content check is opened and tested, too.
        opener: the name of a function like `runtimes.factory.open_engine`.
    """

    bundle: str
    digest: str
    variant: str
    threads: int
    cache_dir: str
    parallel_requests: int = 1
    with_content_check: bool = False
    opener: str = "edge_agent.engines.runtimes.factory:open_engine"


@dataclass(frozen=True, slots=True)
class ProbeReady:
    """An engine is warm; `problems` lists where it disagrees with the golden cases."""

    problems: str
    max_batch: int

    def require_agreement(self) -> None:
        """Check that the engine reproduces the golden cases.

        Raises:
            EngineProcessFailed: it does not.
        """
        if self.problems:
            raise EngineProcessFailed(f"disagrees with the golden cases ({self.problems})")


@dataclass(frozen=True, slots=True)
class TimingRequest:
    """A request to time `calls` at once, of `images` each; `number` selects the images.

    `clock` is the machine's (`wall`) or the processor time of all threads (`cpu`), which does not
    grow while the process waits for a core.
    """

    number: int
    images: int = 1
    calls: int = 1
    clock: Literal["wall", "cpu"] = "wall"


class Probe(Protocol):
    """A candidate engine that is being measured."""

    @property
    def peak_bytes(self) -> int:
        """The most memory that the candidate has held."""
        ...

    def opened(self, until: float) -> ProbeReady:
        """Wait for the engine until `time.monotonic()` reaches `until`.

        Raises:
            EngineProcessFailed: the engine cannot be used.
        """
        ...

    def time(self, timing: TimingRequest, limit_s: float) -> float:
        """Return the milliseconds that the request took.

        Raises:
            EngineProcessFailed: the engine failed, or did not answer in time.
        """
        ...

    def end(self) -> None:
        """End the candidate, in any state."""
        ...


ProbeFactory = Callable[[ProbeJob], Probe]


class ProbeProcess:
    """A `Probe` in a process of its own."""

    def __init__(self, job: ProbeJob, limits: ProcessLimits = _NO_LIMITS) -> None:
        """Start the process, which opens the engine at once.

        Raises:
            OSError: no process can be started.
        """
        self._process = EngineProcess("edge_agent.engines.selection.probe_worker:serve", limits)
        self._process.send(asdict(job))

    @property
    def pid(self) -> int:
        """Return the process's id."""
        return self._process.pid

    @property
    def peak_bytes(self) -> int:
        """See `Probe.peak_bytes`."""
        return self._process.peak_bytes

    def opened(self, until: float) -> ProbeReady:
        """See `Probe.opened`."""
        limit_s = max(0.0, until - time.monotonic())
        return ProbeReady(**self._process.receive(limit_s, "get ready"))

    def time(self, timing: TimingRequest, limit_s: float) -> float:
        """See `Probe.time`."""
        self._process.send(asdict(timing))
        return float(self._process.receive(limit_s, "answer")["ms"])

    def end(self) -> None:
        """See `Probe.end`."""
        self._process.end()
