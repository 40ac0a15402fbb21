"""The zygote: the process that decode workers are forked from.

`decoding.zygote_client` runs it as `python -m edge_agent.decoding.zygote FD CONFIG`. The agent has
threads and must never fork. The zygote is a fresh interpreter with one thread that has imported
the decoders and never reads hostile bytes; a fork of it is a warm worker within milliseconds and
shares its memory with the others (docs/decisions/0030-decode-processes.md).
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import cv2
import numpy as np

from edge_agent.decoding import sandbox
from edge_agent.decoding.protocol import WorkerConfig
from edge_agent.decoding.shared_memory import SharedImageBuffer
from edge_agent.decoding.worker import DecodeWorker, Reader, warm_up
from edge_agent.imaging import Limits
from edge_agent.system.processes import die_with_parent

_MAX_COMMAND_BYTES: Final = 256
_STANDARD_STREAMS: Final = 3


@dataclass(frozen=True, slots=True)
class ForkedWorker:
    """A worker that was forked and not yet reaped, so that its pid cannot be reused."""

    worker_id: int
    pid: int


class ZygoteServer:
    """Forks, kills and reaps workers at the agent's command."""

    def __init__(
        self, agent: socket.socket, config: WorkerConfig, reader: Reader, sample: bytes
    ) -> None:
        self._agent = agent
        self._config = config
        self._reader = reader
        self._sample = sample
        self._workers: dict[int, ForkedWorker] = {}
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Serve until the agent closes its end; then kill all workers."""
        self._selector.register(self._agent, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if isinstance(key.data, ForkedWorker):
                    self._reap(key.fd, key.data)
                elif not self._handle_command():
                    return self._kill_all()

    def _handle_command(self) -> bool:
        packet, fds, _flags, _address = socket.recv_fds(self._agent, _MAX_COMMAND_BYTES, 2)
        if not packet:
            return False
        command = json.loads(packet)
        worker_id = command["worker_id"]
        if command["command"] == "fork":
            self._fork(worker_id, *fds)
        elif worker_id in self._workers:  # Otherwise it has exited in the meantime.
            os.kill(self._workers[worker_id].pid, signal.SIGKILL)
        return True

    def _fork(self, worker_id: int, channel_fd: int, memory_fd: int) -> None:
        zygote_pid = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            self._send_event("exited", worker_id=worker_id, status=os.EX_OSERR)
            return
        finally:
            if os.getpid() == zygote_pid:
                os.close(channel_fd)
                os.close(memory_fd)
        if pid == 0:
            self._run_worker(zygote_pid, channel_fd, memory_fd)
        worker = self._workers[worker_id] = ForkedWorker(worker_id, pid)
        self._selector.register(os.pidfd_open(pid), selectors.EVENT_READ, worker)
        self._send_event("forked", worker_id=worker_id, pid=pid)

    def _run_worker(self, zygote_pid: int, channel_fd: int, memory_fd: int) -> NoReturn:
        try:
            die_with_parent(zygote_pid)
            _close_fds_except(channel_fd, memory_fd)
            config = self._config
            memory = SharedImageBuffer(memory_fd, config.input_bytes, config.output_bytes)
            memory.close_fd()
            worker = DecodeWorker(self._reader, Limits(**config.limits), memory)
            with socket.socket(fileno=channel_fd) as agent:
                worker.run(agent, self._sample, config.memory_bytes)
            os._exit(0)
        finally:
            os._exit(1)

    def _reap(self, pidfd: int, worker: ForkedWorker) -> None:
        self._selector.unregister(pidfd)
        os.close(pidfd)
        _pid, status = os.waitpid(worker.pid, 0)
        del self._workers[worker.worker_id]
        self._send_event(
            "exited", worker_id=worker.worker_id, status=os.waitstatus_to_exitcode(status)
        )

    def _send_event(self, event: str, **values: int) -> None:
        _send(self._agent, {"event": event, **values})

    def _kill_all(self) -> None:
        for worker in self._workers.values():
            os.kill(worker.pid, signal.SIGKILL)
        for worker in self._workers.values():
            os.waitpid(worker.pid, 0)


def _require_one_thread() -> None:
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise RuntimeError(f"libraries started {threads - 1} threads, which a fork would lose")


def load_reader(path: str) -> Reader:
    """Import the function that `package.module:name` names."""
    module, _, name = path.partition(":")
    reader: Reader = getattr(importlib.import_module(module), name)
    return reader


def make_sample_image() -> bytes:
    """Return a PNG of a ramp; decoding it loads the libraries that any image needs."""
    ramp = np.add.outer(np.arange(512), np.arange(512)) % 256
    return cv2.imencode(".png", ramp.astype(np.uint8))[1].tobytes()


def main() -> int:
    """Import and warm up the decoders, then serve; see the module."""
    agent = socket.socket(fileno=int(sys.argv[1]))
    config = WorkerConfig.from_json(sys.argv[2])
    sandbox.ignore_stop_signals()
    die_with_parent(config.agent_pid)
    try:
        reader = load_reader(config.reader)
        cv2.setNumThreads(1)
        sample = make_sample_image()
        warm_up(reader, sample)
        _require_one_thread()
    except Exception as error:  # noqa: BLE001  # reported to the agent, which cannot start
        _send(agent, {"event": "failed", "message": f"{type(error).__name__}: {error}"[:1000]})
        return 1
    gc.collect()
    gc.freeze()  # A collection in a worker then touches, and so copies, no shared object.
    _send(agent, {"event": "ready"})
    with suppress(BrokenPipeError):  # The agent ended while an event was sent.
        ZygoteServer(agent, config, reader, sample).run()
    return 0


def _send(agent: socket.socket, message: dict[str, Any]) -> None:
    agent.send(json.dumps(message).encode())


def _close_fds_except(*kept: int) -> None:
    # Not os.closerange: if the limit is 10^9, some builds of Python try every descriptor.
    for fd in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if fd >= _STANDARD_STREAMS and fd not in kept:
            with suppress(OSError):  # The listing's own descriptor is closed already.
                os.close(fd)


if __name__ == "__main__":
    sys.exit(main())
