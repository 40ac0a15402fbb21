"""Try a candidate in a process of its own, so that what breaks there breaks nothing here.

The agent starts one process for each candidate and talks with it over a socket: one job, then as
many timings as it wants, each answered by one message. The processes are niced, end when the agent
does, and one that gives no answer in time is killed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any, Final, Protocol

_MAX_MESSAGE_BYTES: Final = 1 << 16
_END_LIMIT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class ProbeJob:
    """What to try. `opener` names a function like `engines.runtimes.open_engine`."""

    bundle: str
    digest: str
    variant: str
    threads: int
    cache_dir: str
    parallel_requests: int = 1
    opener: str = "edge_agent.engines.runtimes.factory:open_engine"


@dataclass(frozen=True, slots=True)
class ProbeReady:
    """An engine that is warm. `problems` says where it disagrees with the golden cases."""

    problems: str
    max_batch: int


@dataclass(frozen=True, slots=True)
class TimingRequest:
    """What to time: `calls` at once, of `images` each. `number` makes one unlike the next."""

    number: int
    images: int = 1
    calls: int = 1


class ProbeFailed(Exception):
    """The candidate gave no answer. `lasting`: it would not give one next time either."""

    def __init__(self, message: str, *, lasting: bool = True) -> None:
        super().__init__(message)
        self.lasting = lasting


class Probe(Protocol):
    """One candidate on trial."""

    def opened(self, until: float) -> ProbeReady:
        """Wait for the engine, at most until `time.monotonic()` says so, or ProbeFailed."""
        ...

    def time(self, timing: TimingRequest, limit_s: float) -> float:
        """Milliseconds from the first call's start to the last one's end, or ProbeFailed."""
        ...

    def end(self) -> None:
        """End it, whatever it does."""
        ...


ProbeFactory = Callable[[ProbeJob], Probe]


class ProbeProcess:
    """A `Probe` in a process of its own."""

    def __init__(self, job: ProbeJob) -> None:
        """Start the process; it opens the engine at once."""
        ours, theirs = socket.socketpair()
        with theirs:
            channel = theirs.fileno()
            module = [sys.executable, "-P", "-m", "edge_agent.engines.selection.probe_main"]
            self._process = subprocess.Popen(  # noqa: S603  # our own module
                [*module, str(channel), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[channel],
                start_new_session=True,  # What a terminal sends is for the agent.
            )
        self._channel: Connection[bytes, bytes] = Connection(ours.detach())
        self._send(job)

    def opened(self, until: float) -> ProbeReady:
        """See `Probe.opened`."""
        return ProbeReady(**self._receive(max(0.0, until - time.monotonic()), "get ready"))

    def time(self, timing: TimingRequest, limit_s: float) -> float:
        """See `Probe.time`."""
        self._send(timing)
        return float(self._receive(limit_s, "answer")["ms"])

    def end(self) -> None:
        """See `Probe.end`."""
        self._process.kill()
        self._process.wait(_END_LIMIT_S)
        self._channel.close()

    def _send(self, message: ProbeJob | TimingRequest) -> None:
        with suppress(OSError):  # It has ended; that is noticed when no answer comes.
            self._channel.send_bytes(json.dumps(asdict(message)).encode())

    def _receive(self, limit_s: float, act: str) -> dict[str, Any]:
        try:
            if not self._channel.poll(limit_s):
                self._process.kill()
                raise ProbeFailed(f"did not {act} in time", lasting=False)
            answer: dict[str, Any] = json.loads(self._channel.recv_bytes(_MAX_MESSAGE_BYTES))
        except (EOFError, OSError):
            raise self._ended() from None
        if "error" in answer:
            raise ProbeFailed(f"failed: {answer['error']}")
        return answer

    def _ended(self) -> ProbeFailed:
        """How the process ended. What the kernel killed may have had too little memory today."""
        try:
            status = self._process.wait(_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            return ProbeFailed("closed its channel", lasting=False)
        if status >= 0:
            return ProbeFailed(f"ended its process with status {status}")
        name = signal.Signals(-status).name
        return ProbeFailed(f"crashed its process ({name})", lasting=name != "SIGKILL")
