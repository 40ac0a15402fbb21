"""A real agent process under a campaign: where it is, what it is made of, what it logs."""

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
    """`hilum-edge serve`, serving on both faces."""

    process: subprocess.Popen[str]
    address: str
    page: str
    log: deque[str] = field(default_factory=lambda: deque(maxlen=200))
    logged: Counter[str] = field(default_factory=Counter)

    @property
    def alive(self) -> bool:
        """It has not ended."""
        return self.process.poll() is None

    def helpers(self) -> tuple[int | None, list[int]]:
        """Pids of the process that decode workers are forked from, and of these."""
        for pid in process_tree(self.process.pid)[1:]:
            return pid, process_tree(pid)[1:]
        return None, []

    def kill_worker(self, place: int) -> bool:
        """`kill -9` one decode worker; says whether there was one."""
        _, workers = self.helpers()
        return bool(workers) and _killed(workers[place % len(workers)])

    def kill_zygote(self) -> bool:
        """`kill -9` the process that decode workers are forked from; they go with it."""
        zygote, _ = self.helpers()
        return zygote is not None and _killed(zygote)

    def metrics(self) -> dict[str, float]:
        """Its own figures, by name with labels."""
        lines = httpx.get(f"{self.page}metrics", timeout=30).text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def stop(self) -> int:
        """End it as a service manager does; its exit status."""
        self.process.terminate()
        return self.process.wait(ENDS_WITHIN_S)

    def read_log(self) -> None:
        """Read its log until it ends, or it would one day wait for somebody to."""
        assert self.process.stderr
        with suppress(ValueError):  # Closed under our feet at the end.
            for line in self.process.stderr:
                self.log.append(line)
                self.logged[" ".join(line.split(" ")[1:4])] += 1


@contextmanager
def live_agent(*options: str, environment: dict[str, str] | None = None) -> Iterator[LiveAgent]:
    """An agent of its own, on free ports; ended at the end."""
    with agent_process("--port", "0", *options, environment=environment) as process:
        said = serving_line(process)
        agent = LiveAgent(process, said["address"], said["page"])
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
