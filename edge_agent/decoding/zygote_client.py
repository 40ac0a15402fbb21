"""The agent's side of the decode processes: start the nursery, get workers from it, end them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Any, Final

from edge_agent.decoding.protocol import MAX_MESSAGE_BYTES, READY, DecodeRequest, WorkerConfig
from edge_agent.decoding.shared_memory import SharedImageBuffer
from edge_agent.errors import DecoderFailed

log = logging.getLogger(__name__)

_START_TIMEOUT_S: Final = 60.0
_END_TIMEOUT_S: Final = 5.0
_KEPT_ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "LD_LIBRARY_PATH")
_ONE_THREAD: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
}
# Given back after each image and taken anew, an image's pages cost a quarter of its decoding.
_KEEPS_PAGES: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}


class WorkerExited(DecoderFailed):
    """A worker process ended where it should not have."""


class WorkerProcess:
    """One worker process as the agent sees it. Used by one request at a time."""

    def __init__(self, worker_id: int, memory: SharedImageBuffer, channel: socket.socket) -> None:
        self.id = worker_id
        self.pid: int | None = None
        self.memory = memory
        self._channel = channel
        self._receiving = False
        self.gone: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        """Done when the process has ended; its exit status, negative for a signal, if known."""
        self.gone.add_done_callback(lambda _: self._close_if_done())

    async def ready(self) -> None:
        """Wait until it is warm.

        Raises:
            WorkerEnded: it ended before.
        """
        if await self._receive() != READY:
            raise WorkerExited(f"A decoder process ended while it started: {await self.how()}.")

    def send(self, request: DecodeRequest) -> bool:
        """Hand over a request whose image lies in the memory.

        False if the process has ended, or has said something without being asked.
        """
        try:
            self._channel.recv(1)
        except BlockingIOError:  # Silence, as it should be.
            with suppress(OSError):
                self._channel.send(request.to_bytes())
                return True
        except OSError:
            return False
        return False

    async def answer(self) -> bytes:
        """Wait for the answer.

        Raises:
            WorkerEnded: the process ended without one.
        """
        packet = await self._receive()
        if not packet:
            raise WorkerExited(
                f"The decoder process ended while it decoded this image: {await self.how()}."
            )
        return packet

    async def how(self) -> str:
        """How it ended, in words."""
        try:
            status = await asyncio.wait_for(asyncio.shield(self.gone), 1.0)
        except TimeoutError:
            return "it closed its channel"
        if status is None:
            return "all of them were ended"
        if status < 0:
            return f"signal {signal.Signals(-status).name}"
        return f"exit status {status}"

    def retire(self) -> None:
        """No request uses it any more: free its memory as soon as the process has ended."""
        self.gone.add_done_callback(lambda _: self.memory.release())

    async def _receive(self) -> bytes:
        if self.gone.done():
            return b""
        self._receiving = True
        try:
            return await asyncio.get_running_loop().sock_recv(self._channel, MAX_MESSAGE_BYTES)
        except OSError:
            return b""
        finally:
            self._receiving = False
            self._close_if_done()

    def _close_if_done(self) -> None:
        # Never under a pending receive: it would wait for ever, or for another socket's bytes.
        if self.gone.done() and not self._receiving:
            self._channel.close()


class Zygote:
    """The process that workers are forked from; see `decode_nursery_main`."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self.pid = process.pid
        self._process = process
        self._channel = channel
        self._workers: dict[int, WorkerProcess] = {}
        self._last_id = 0
        self.alive = True
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[str | None] = loop.create_future()
        self._listening = loop.create_task(self._listen())

    @classmethod
    async def start(cls, config: WorkerConfig) -> Zygote:
        """Start the process and wait until it has imported everything.

        Raises:
            DecoderFailed: it cannot start.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            nursery = cls(_start_process(theirs.fileno(), config), ours)
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                failure = await nursery._ready
        except BaseException:
            await nursery.close()
            raise
        if failure is not None:
            await nursery.close()
            raise DecoderFailed(
                f"The decoder processes cannot start: {failure}.",
                hint="Check that the agent is installed whole; `hilum-edge detect` says more.",
            )
        return nursery

    def fork(self, memory: SharedImageBuffer) -> WorkerProcess:
        """Ask for a new worker with this memory, whose descriptor is closed; await its `ready`.

        Raises:
            OSError: the nursery cannot be asked.
        """
        self._last_id += 1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        worker = WorkerProcess(self._last_id, memory, ours)
        with theirs:
            try:
                order = json.dumps({"do": "fork", "worker": worker.id}).encode()
                socket.send_fds(self._channel, [order], [theirs.fileno(), memory.fd])
            except OSError:
                worker.gone.set_result(None)
                raise
            finally:
                memory.close_fd()
        self._workers[worker.id] = worker
        return worker

    def kill(self, worker: WorkerProcess) -> None:
        """End a worker now. The nursery does it: to its parent a pid is never somebody else's."""
        if worker.gone.done() or self._workers.get(worker.id) is not worker:
            return
        try:
            self._channel.send(json.dumps({"do": "kill", "worker": worker.id}).encode())
        except BlockingIOError:
            log.warning("the decoder nursery no longer listens; ending it with all workers")
            self._process.kill()
        except OSError:
            log.info("the decoder nursery has just ended, and all workers with it")

    async def close(self) -> None:
        """End the nursery and all workers; returns when none is left."""
        if self.alive:
            self._channel.shutdown(socket.SHUT_RDWR)
        await self._listening
        try:
            await asyncio.to_thread(self._process.wait, _END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while packet := await loop.sock_recv(self._channel, MAX_MESSAGE_BYTES):
                self._hear(json.loads(packet))
        except OSError as error:
            log.warning("lost the decoder processes: %s", error.strerror)
        finally:
            self.alive = False
            self._channel.close()
            if not self._ready.done():
                self._ready.set_result("the process ended by itself")
            for worker in list(self._workers.values()):
                self._forget(worker.id, None)

    def _hear(self, told: dict[str, Any]) -> None:
        if "born" in told:
            self._workers[told["born"]].pid = told["pid"]
        elif "died" in told:
            self._forget(told["died"], told["status"])
        else:
            self._ready.set_result(told.get("failed"))

    def _forget(self, worker_id: int, status: int | None) -> None:
        worker = self._workers.pop(worker_id)
        if not worker.gone.done():
            worker.gone.set_result(status)


def _start_process(channel_fd: int, config: WorkerConfig) -> subprocess.Popen[bytes]:
    # The environment may hold secrets that a process which reads hostile bytes has no use for.
    # Decoders write about the file's content to standard error: that is patient data, not a log.
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    module = "edge_agent.decoding.zygote"
    return subprocess.Popen(  # noqa: S603  # our own interpreter and module
        [sys.executable, "-P", "-m", module, str(channel_fd), config.to_json()],
        pass_fds=[channel_fd],
        env=environment | _ONE_THREAD | _KEEPS_PAGES,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
