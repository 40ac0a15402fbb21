"""The process that decode workers are forked from: everything imported, nothing hostile ever read.

Run by `decode_nursery` as `python -m edge_agent.decoding.zygote FD CONFIG`. The agent
itself, with its threads, must never fork; this process is started afresh, has one thread, and a
fork of it is a warm worker within milliseconds that shares its memory with the others.
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

_MAX_ORDER_BYTES: Final = 256
_STANDARD_STREAMS: Final = 3


@dataclass(frozen=True, slots=True)
class ForkedWorker:
    """A worker that was forked and not yet reaped: its pid cannot be anybody else's."""

    worker_id: int
    pid: int


class ZygoteServer:
    """Forks, kills and reaps workers as the agent says."""

    def __init__(
        self, agent: socket.socket, config: WorkerConfig, reader: Reader, sample: bytes
    ) -> None:
        self._agent = agent
        self._config = config
        self._reader = reader
        self._sample = sample
        self._children: dict[int, ForkedWorker] = {}
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Serve until the agent closes its end; then take all workers along."""
        self._selector.register(self._agent, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if isinstance(key.data, ForkedWorker):
                    self._reap(key.fd, key.data)
                elif not self._obey():
                    return self._end_all()

    def _obey(self) -> bool:
        packet, fds, _flags, _address = socket.recv_fds(self._agent, _MAX_ORDER_BYTES, 2)
        if not packet:
            return False
        order = json.loads(packet)
        worker_id = order["worker"]
        if order["do"] == "fork":
            self._fork(worker_id, *fds)
        elif worker_id in self._children:  # Otherwise it has just ended by itself.
            os.kill(self._children[worker_id].pid, signal.SIGKILL)
        return True

    def _fork(self, worker_id: int, channel_fd: int, memory_fd: int) -> None:
        nursery_pid = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            self._tell(died=worker_id, status=os.EX_OSERR)
            return
        finally:
            if os.getpid() == nursery_pid:
                os.close(channel_fd)
                os.close(memory_fd)
        if pid == 0:
            self._become_worker(nursery_pid, channel_fd, memory_fd)
        child = self._children[worker_id] = ForkedWorker(worker_id, pid)
        self._selector.register(os.pidfd_open(pid), selectors.EVENT_READ, child)
        self._tell(born=worker_id, pid=pid)

    def _become_worker(self, nursery_pid: int, channel_fd: int, memory_fd: int) -> NoReturn:
        try:
            sandbox.die_with_parent(nursery_pid)
            _close_all_but(channel_fd, memory_fd)
            config = self._config
            memory = SharedImageBuffer(memory_fd, config.input_bytes, config.output_bytes)
            memory.close_fd()
            worker = DecodeWorker(self._reader, Limits(**config.limits), memory)
            with socket.socket(fileno=channel_fd) as agent:
                worker.run(agent, self._sample, config.memory_bytes)
            os._exit(0)
        finally:
            os._exit(1)

    def _reap(self, pidfd: int, child: ForkedWorker) -> None:
        self._selector.unregister(pidfd)
        os.close(pidfd)
        _pid, status = os.waitpid(child.pid, 0)
        del self._children[child.worker_id]
        self._tell(died=child.worker_id, status=os.waitstatus_to_exitcode(status))

    def _tell(self, **what: int) -> None:
        _send(self._agent, what)

    def _end_all(self) -> None:
        for child in self._children.values():
            os.kill(child.pid, signal.SIGKILL)
        for child in self._children.values():
            os.waitpid(child.pid, 0)


def _check_one_thread() -> None:
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise RuntimeError(f"libraries started {threads - 1} threads, which a fork would lose")


def load_reader(path: str) -> Reader:
    """The function that `package.module:name` names."""
    module, _, name = path.partition(":")
    reader: Reader = getattr(importlib.import_module(module), name)
    return reader


def sample_image() -> bytes:
    """A PNG with something in it; decoding it loads what decoding any image needs."""
    ramp = np.add.outer(np.arange(512), np.arange(512)) % 256
    return cv2.imencode(".png", ramp.astype(np.uint8))[1].tobytes()


def main() -> int:
    """See the module."""
    agent = socket.socket(fileno=int(sys.argv[1]))
    config = WorkerConfig.from_json(sys.argv[2])
    sandbox.leave_signals_to_the_agent()
    sandbox.die_with_parent(config.agent_pid)
    try:
        reader = load_reader(config.reader)
        cv2.setNumThreads(1)
        sample = sample_image()
        warm_up(reader, sample)
        _check_one_thread()
    except Exception as error:  # noqa: BLE001  # told to the agent, which cannot start
        _send(agent, {"failed": f"{type(error).__name__}: {error}"[:1000]})
        return 1
    gc.collect()
    gc.freeze()  # What all workers share is never visited, and so never copied, by a collection.
    _send(agent, {"ready": os.getpid()})
    with suppress(BrokenPipeError):  # The agent ended while it was being told something.
        ZygoteServer(agent, config, reader, sample).run()
    return 0


def _send(agent: socket.socket, what: dict[str, Any]) -> None:
    agent.send(json.dumps(what).encode())


def _close_all_but(*kept: int) -> None:
    # Not os.closerange: where the limit is a milliard, some builds of Python try them one by one.
    for fd in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if fd >= _STANDARD_STREAMS and fd not in kept:
            with suppress(OSError):  # The listing's own descriptor is closed already.
                os.close(fd)


if __name__ == "__main__":
    sys.exit(main())
