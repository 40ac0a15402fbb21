"""Tries a candidate engine in a process of its own, so that a crash does not reach the agent.

The agent starts one process for each candidate. Over a socket it sends one job and then any number
of timing requests; each is answered by one message. The processes are niced, end when the
agent ends, and are killed if they do not answer in time.
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
    """The engine to try. `opener` names a function like `runtimes.factory.open_engine`."""

    bundle: str
    digest: str
    variant: str
    threads: int
    cache_dir: str
    parallel_requests: int = 1
    opener: str = "edge_agent.engines.runtimes.factory:open_engine"


@dataclass(frozen=True, slots=True)
class ProbeReady:
    """An engine is warm; `problems` lists where it disagrees with the golden cases."""

    problems: str
    max_batch: int


@dataclass(frozen=True, slots=True)
class TimingRequest:
    """A request to time `calls` at once, of `images` each; `number` selects the images."""

    number: int
    images: int = 1
    calls: int = 1


class ProbeFailed(Exception):
    """The candidate gave no result. `lasting` is True if it is expected to fail next time, too."""

    def __init__(self, message: str, *, lasting: bool = True) -> None:
        super().__init__(message)
        self.lasting = lasting


class Probe(Protocol):
    """A candidate engine that is being measured."""

    def opened(self, until: float) -> ProbeReady:
        """Wait for the engine until `time.monotonic()` reaches `until`; raises ProbeFailed."""
        ...

    def time(self, timing: TimingRequest, limit_s: float) -> float:
        """Return the milliseconds that the request took; raises ProbeFailed."""
        ...

    def end(self) -> None:
        """End the candidate, in any state."""
        ...


ProbeFactory = Callable[[ProbeJob], Probe]


class ProbeProcess:
    """A `Probe` in a process of its own."""

    def __init__(self, job: ProbeJob) -> None:
        """Start the process, which opens the engine at once."""
        agent_end, probe_end = socket.socketpair()
        with probe_end:
            channel = probe_end.fileno()
            module = [sys.executable, "-P", "-m", "edge_agent.engines.selection.probe_main"]
            self._process = subprocess.Popen(  # noqa: S603  # our own module
                [*module, str(channel), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[channel],
                start_new_session=True,  # A terminal's signals are for the agent.
            )
        self._channel: Connection[bytes, bytes] = Connection(agent_end.detach())
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
        with suppress(OSError):  # The process has ended; `_receive` reports that.
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
        """Describe how the process ended. SIGKILL may mean too little memory and is not lasting."""
        try:
            status = self._process.wait(_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            return ProbeFailed("closed its channel", lasting=False)
        if status >= 0:
            return ProbeFailed(f"ended its process with status {status}")
        name = signal.Signals(-status).name
        return ProbeFailed(f"crashed its process ({name})", lasting=name != "SIGKILL")
