"""Runs an engine in a process of its own: a crash, a hang or a leak costs only that process.

The agent starts the process and exchanges messages with it over a socket: each request is answered
by one message. The process ends when the agent ends. It is killed if it does not answer in time, or
if it needs more memory than it may.

Only standard modules are imported here, because the process lowers its priority before it imports
a library that starts threads.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

from edge_agent.system.memory import peak_memory_bytes
from edge_agent.system.processes import cpu_time_s

MAX_ANSWER_BYTES: Final = 1 << 20
_END_LIMIT_S: Final = 5.0
_TRANSFER_LIMIT_S: Final = 60.0
"""Seconds for a message to be read. An idle process on a busy machine may need many."""
_WATCH_S: Final = 0.05
"""Seconds between two readings of the memory. A thread can fill about 100 MB in that time."""
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """Limits of an engine's process.

    Attributes:
        is_idle: True if it may compute only when nothing else on the machine does. Otherwise its
            priority is a little lower than the agent's.
        memory_bytes: the most memory that it may hold, its libraries included; None means any.
    """

    is_idle: bool = False
    memory_bytes: int | None = None


class EngineProcessFailed(Exception):
    """The process gave no result. `lasting` is True if it is expected to fail next time, too."""

    def __init__(self, message: str, *, lasting: bool = True) -> None:
        super().__init__(message)
        self.lasting = lasting


class EngineProcess:
    """The agent's handle of a process. Used by one thread at a time."""

    def __init__(self, serve: str, limits: ProcessLimits) -> None:
        """Start the process.

        It ends with the thread that calls this, because the kernel takes that for its parent.

        Args:
            serve: the name of the function that answers requests in the process, such as
                `package.module:function`. It is given the channel.
            limits: the priority and the memory.

        Raises:
            OSError: no process can be started.
        """
        self._limits = limits
        self.peak_bytes = 0
        """The most memory that the process has held at its last reading."""
        self.cpu_s = 0.0
        """The processor time that the process has used, at its last reading."""
        self._failure: EngineProcessFailed | None = None
        agent_end, process_end = socket.socketpair()
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):  # socket(7)
            agent_end.setsockopt(
                socket.SOL_SOCKET, option, struct.pack("ll", int(_TRANSFER_LIMIT_S), 0)
            )
        with process_end:
            channel = process_end.fileno()
            arguments = [str(channel), str(os.getpid()), "idle" if limits.is_idle else "low", serve]
            module = "edge_agent.engines.engine_process_main"
            self._process = subprocess.Popen(  # noqa: S603  # our own module
                [sys.executable, "-P", "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[channel],
                start_new_session=True,  # A terminal's signals are for the agent.
            )
        self._channel: Connection[bytes, bytes] = Connection(agent_end.detach())

    @property
    def pid(self) -> int:
        """Return the process's id."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """Return the exit status, negative for a signal; None if the process has not ended yet."""
        return self._process.poll()

    def send(self, message: dict[str, Any], payload: bytes | memoryview | None = None) -> None:
        """Send a request. A failure is reported by `receive`.

        Args:
            message: values for JSON.
            payload: bytes that are sent after the message.
        """
        try:
            self._channel.send_bytes(json.dumps(message).encode())
            if payload is not None:
                self._channel.send_bytes(payload)
        except BlockingIOError:
            self._give_up("did not read a request in time")
        except OSError:
            pass  # It has ended; `receive` finds out how.

    def receive(self, limit_s: float, action: str) -> dict[str, Any]:
        """Wait for the answer to the last request.

        Args:
            limit_s: seconds to wait; the process is killed afterwards.
            action: what the process should do in that time, for the message.

        Returns:
            The answer.

        Raises:
            EngineProcessFailed: the process answered with an error or not at all, ended, or needs
                more memory than it may. After any but an error that it answered, it has ended,
                and each further call raises the same.
        """
        if self._failure is not None:
            raise EngineProcessFailed(str(self._failure), lasting=self._failure.lasting)
        until = time.monotonic() + limit_s
        try:
            while not self._channel.poll(min(_WATCH_S, max(0.0, until - time.monotonic()))):
                self._watch()
                if time.monotonic() >= until:
                    raise self._give_up(f"did not {action} in time")
            self._watch()
            answer: dict[str, Any] = json.loads(self._channel.recv_bytes(MAX_ANSWER_BYTES))
        except BlockingIOError:
            raise self._give_up(f"did not {action} in time") from None
        except (EOFError, OSError):
            raise self._describe_end() from None
        except ValueError:
            raise self._give_up("gave an answer that is not understood") from None
        if "error" in answer:
            raise EngineProcessFailed(f"failed: {answer['error']}")
        return answer

    def end(self) -> None:
        """End the process, in any state."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_LIMIT_S)
        self._channel.close()

    def kill(self) -> None:
        """Kill the process. May be called by any thread; `receive` reports it."""
        self._process.kill()

    def _watch(self) -> None:
        """Read what the process has used, and kill it if that is too much."""
        self.peak_bytes = max(self.peak_bytes, peak_memory_bytes(self._process.pid))
        self.cpu_s = cpu_time_s(self._process.pid) or self.cpu_s
        limit_bytes = self._limits.memory_bytes
        if limit_bytes is not None and self.peak_bytes > limit_bytes:
            raise self._give_up(f"needs more than {limit_bytes // _MIB} MiB")

    def _give_up(self, problem: str) -> EngineProcessFailed:
        self._process.kill()
        self._failure = EngineProcessFailed(problem, lasting=False)
        return self._failure

    def _describe_end(self) -> EngineProcessFailed:
        """Describe how the process ended. SIGKILL may mean too little memory and is not lasting."""
        try:
            status = self._process.wait(_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            return self._give_up("closed its channel")
        if status >= 0:
            self._failure = EngineProcessFailed(f"ended its process with status {status}")
        else:
            name = signal.Signals(-status).name
            lasting = name != "SIGKILL"
            self._failure = EngineProcessFailed(f"crashed its process ({name})", lasting=lasting)
        return self._failure
