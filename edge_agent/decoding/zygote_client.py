"""The agent's side of the decoder processes: start the zygote, have it fork and kill workers."""

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

_log = logging.getLogger(__name__)

_START_TIMEOUT_S: Final = 60.0
_EXIT_TIMEOUT_S: Final = 5.0
_EXIT_STATUS_TIMEOUT_S: Final = 1.0
_PASSED_ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "LD_LIBRARY_PATH")
_SINGLE_THREADED: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
}
# Unmapping an image's pages after each image and mapping new ones costs a quarter of its decoding.
_KEEP_FREED_PAGES: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}


class WorkerExited(DecoderFailed):
    """A worker process exited while it was in use."""


class WorkerProcess:
    """The agent's handle of a worker process. Used by one request at a time."""

    def __init__(self, worker_id: int, memory: SharedImageBuffer, channel: socket.socket) -> None:
        self.id = worker_id
        self.pid: int | None = None
        self.memory = memory
        self._channel = channel
        self._is_receiving = False
        self.exited: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        """Done when the process has exited: its exit status, negative for a signal, if known."""
        self.exited.add_done_callback(lambda _: self._close_channel_if_unused())

    async def wait_until_ready(self) -> None:
        """Wait until the worker is warm.

        Raises:
            WorkerExited: the process exited before.
        """
        if await self._receive() != READY:
            raise WorkerExited(
                f"A decoder process ended while it started: {await self._describe_exit()}."
            )

    def send_request(self, request: DecodeRequest) -> bool:
        """Send a request whose image is in the memory.

        Returns:
            False if the process has exited, or has sent a message that was not requested.
        """
        try:
            self._channel.recv(1)
        except BlockingIOError:  # No message is pending, as it should be.
            with suppress(OSError):
                self._channel.send(request.to_bytes())
                return True
        except OSError:
            return False
        return False

    async def receive_response(self) -> bytes:
        """Wait for the response.

        Raises:
            WorkerExited: the process exited without one.
        """
        packet = await self._receive()
        if not packet:
            how = await self._describe_exit()
            raise WorkerExited(f"The decoder process ended while it decoded this image: {how}.")
        return packet

    async def _describe_exit(self) -> str:
        try:
            status = await asyncio.wait_for(asyncio.shield(self.exited), _EXIT_STATUS_TIMEOUT_S)
        except TimeoutError:
            return "it closed its channel"
        if status is None:
            return "all of them were ended"
        if status < 0:
            return f"signal {signal.Signals(-status).name}"
        return f"exit status {status}"

    def release_memory_on_exit(self) -> None:
        """Unmap the memory as soon as the process has exited; no request may use the worker."""
        self.exited.add_done_callback(lambda _: self.memory.unmap())

    async def _receive(self) -> bytes:
        if self.exited.done():
            return b""
        self._is_receiving = True
        try:
            return await asyncio.get_running_loop().sock_recv(self._channel, MAX_MESSAGE_BYTES)
        except OSError:
            return b""
        finally:
            self._is_receiving = False
            self._close_channel_if_unused()

    def _close_channel_if_unused(self) -> None:
        # Never during a receive: it would wait for ever, or for another socket's bytes.
        if self.exited.done() and not self._is_receiving:
            self._channel.close()


class Zygote:
    """The agent's handle of the process that workers are forked from; see `decoding.zygote`."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self.pid = process.pid
        self._process = process
        self._channel = channel
        self._workers: dict[int, WorkerProcess] = {}
        self._last_id = 0
        self.is_running = True
        loop = asyncio.get_running_loop()
        self._started: asyncio.Future[str | None] = loop.create_future()
        """Done when the process has started: the reason if it failed, else None."""
        self._reading = loop.create_task(self._read_events())

    @classmethod
    async def start(cls, config: WorkerConfig) -> Zygote:
        """Start the process and wait until it has imported the decoders.

        Raises:
            DecoderFailed: it cannot start.
        """
        agent_end, zygote_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        agent_end.setblocking(False)
        with zygote_end:
            zygote = cls(_start_process(zygote_end.fileno(), config), agent_end)
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                failure = await zygote._started
        except BaseException:
            await zygote.close()
            raise
        if failure is not None:
            await zygote.close()
            raise DecoderFailed(
                f"The decoder processes cannot start: {failure}.",
                hint="Check that the agent is installed completely; try `hilum-edge detect`.",
            )
        return zygote

    def fork_worker(self, memory: SharedImageBuffer) -> WorkerProcess:
        """Request a new worker, to be used after its `wait_until_ready`.

        Args:
            memory: the worker's memory, whose descriptor is closed here.

        Raises:
            OSError: the zygote cannot be reached.
        """
        self._last_id += 1
        agent_end, worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        agent_end.setblocking(False)
        worker = WorkerProcess(self._last_id, memory, agent_end)
        with worker_end:
            try:
                command = json.dumps({"command": "fork", "worker_id": worker.id}).encode()
                socket.send_fds(self._channel, [command], [worker_end.fileno(), memory.fd])
            except OSError:
                worker.exited.set_result(None)
                raise
            finally:
                memory.close_fd()
        self._workers[worker.id] = worker
        return worker

    def kill_worker(self, worker: WorkerProcess) -> None:
        """Have the zygote kill a worker: only for its parent is a pid never reused."""
        if worker.exited.done() or self._workers.get(worker.id) is not worker:
            return
        try:
            self._channel.send(json.dumps({"command": "kill", "worker_id": worker.id}).encode())
        except BlockingIOError:
            _log.warning("the zygote no longer reads commands; killing it with all workers")
            self._process.kill()
        except OSError:
            _log.info("the zygote has just exited, and all workers with it")

    async def close(self) -> None:
        """End the zygote and all workers; returns when none is left."""
        if self.is_running:
            self._channel.shutdown(socket.SHUT_RDWR)
        await self._reading
        try:
            await asyncio.to_thread(self._process.wait, _EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    async def _read_events(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while packet := await loop.sock_recv(self._channel, MAX_MESSAGE_BYTES):
                self._handle_event(json.loads(packet))
        except OSError as error:
            _log.warning("lost the decoder processes", extra={"error": error.strerror})
        finally:
            self.is_running = False
            self._channel.close()
            if not self._started.done():
                self._started.set_result("the process exited")
            for worker in list(self._workers.values()):
                self._mark_exited(worker.id, None)

    def _handle_event(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "forked":
                self._workers[event["worker_id"]].pid = event["pid"]
            case "exited":
                self._mark_exited(event["worker_id"], event["status"])
            case "failed":
                self._started.set_result(event["message"])
            case _:  # "ready"
                self._started.set_result(None)

    def _mark_exited(self, worker_id: int, status: int | None) -> None:
        worker = self._workers.pop(worker_id)
        if not worker.exited.done():
            worker.exited.set_result(status)


def _start_process(channel_fd: int, config: WorkerConfig) -> subprocess.Popen[bytes]:
    # The environment may hold secrets, which a process that reads hostile bytes does not need.
    # Decoders quote the file's content on standard error: that is patient data and is discarded.
    environment = {name: os.environ[name] for name in _PASSED_ENVIRONMENT if name in os.environ}
    module = "edge_agent.decoding.zygote"
    return subprocess.Popen(  # noqa: S603  # the agent's own interpreter and module
        [sys.executable, "-P", "-m", module, str(channel_fd), config.to_json()],
        pass_fds=[channel_fd],
        env=environment | _SINGLE_THREADED | _KEEP_FREED_PAGES,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
