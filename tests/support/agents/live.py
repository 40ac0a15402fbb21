"""A real agent process for campaigns: its addresses, child processes, metrics and log."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import httpx

from edge_agent.system.processes import process_tree
from tests.support.agents.tagged import agent_process, serving_line

ENDS_WITHIN_S = 60.0


@dataclass
class LiveAgent:
    """A process of `hilum-edge serve` that serves gRPC and HTTP."""

    process: subprocess.Popen[str]
    address: str
    page: str
    log: deque[str] = field(default_factory=lambda: deque(maxlen=200))
    logged: Counter[str] = field(default_factory=Counter)

    @property
    def alive(self) -> bool:
        """Return whether the process still runs."""
        return self.process.poll() is None

    def helpers(self) -> tuple[int | None, list[int]]:
        """Return the pid of the zygote, if any, and the pids of the decode workers."""
        for pid in process_tree(self.process.pid)[1:]:
            return pid, process_tree(pid)[1:]
        return None, []

    def kill_worker(self, place: int) -> bool:
        """Send SIGKILL to one decode worker; return whether there was one."""
        _, workers = self.helpers()
        return bool(workers) and _killed(workers[place % len(workers)])

    def kill_zygote(self) -> bool:
        """Send SIGKILL to the zygote, whose workers end with it; return whether there was one."""
        zygote, _ = self.helpers()
        return zygote is not None and _killed(zygote)

    def metrics(self) -> dict[str, float]:
        """Return the agent's metrics by name with labels."""
        lines = httpx.get(f"{self.page}metrics", timeout=30).text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def stop(self) -> int:
        """Stop the agent as a service manager does; return its exit status."""
        self.process.terminate()
        return self.process.wait(ENDS_WITHIN_S)

    def read_log(self) -> None:
        """Read the log until it ends, because an agent whose log pipe is full waits."""
        assert self.process.stderr
        with suppress(ValueError):  # The pipe is closed at the end.
            for line in self.process.stderr:
                self.log.append(line)
                self.logged[" ".join(line.split(" ")[1:4])] += 1


@contextmanager
def live_agent(*options: str, environment: dict[str, str] | None = None) -> Iterator[LiveAgent]:
    """Run an agent on free ports; kill it at the end."""
    with agent_process("--port", "0", *options, environment=environment) as process:
        line = serving_line(process)
        agent = LiveAgent(process, line["address"], line["page"])
        reader = threading.Thread(target=agent.read_log, name="agent's log")
        reader.start()
        try:
            yield agent
        finally:
            process.kill()
            reader.join()


def _killed(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False
