"""Shared by the network benchmarks: encoded images, clients, bare loops, processor time.

A bare loop does only what cannot be left out: as many decoders as the agent has pass pixels to as
many inference threads as the agent has, which letterbox, check the content, run the same engine
variant and decode the findings. There is no network, no admission, no deadline, no audit log. Its
decoders are threads, or the agent's own processes: the difference is the cost of processes.
"""

from __future__ import annotations

import asyncio
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc
from numpy.typing import NDArray

from edge_agent.app.models import image_limits, load_options, open_bundle
from edge_agent.config import Settings
from edge_agent.core.radiograph import Radiograph
from edge_agent.decoding.pool import DecodePolicy, DecoderPool
from edge_agent.engines.loader import load_model
from edge_agent.imaging import read_study
from edge_agent.serving.inference import InferenceJob, run_inference
from edge_agent.serving.stage_timer import StageTimer
from hilum.v1 import detection_pb2 as pb
from tests.bench.imaging import full_size, raster
from tests.conftest import pydicom_file

DETECT: Final = "/hilum.v1.Detector/Detect"
_QUEUED: Final = 2


def images() -> dict[str, bytes]:
    """RG1, a real radiograph, as clinics send it."""
    plain = pydicom_file("RG1_UNCI.dcm").read_bytes()
    pixels: NDArray[object] = full_size(plain)
    return {
        "JPEG": raster(pixels, "JPEG", quality=92),
        "DICOM, JPEG 2000 lossless": pydicom_file("RG1_J2KR.dcm").read_bytes(),
        "DICOM, uncompressed": plain,
    }


def agents_cache() -> Path:
    """The folder in which agents of `agent_process` keep what they measured and compiled."""
    return Path(tempfile.gettempdir()) / f"hilum-tests-{os.getuid()}"


class BareLoop:
    """Decodes and detects in this process, as the module describes."""

    def __init__(self, settings: Settings) -> None:
        cached = settings.model_copy(update={"cache_dir": agents_cache()})
        self.model = load_model(open_bundle(cached), load_options(cached))
        self.workers = settings.decode.workers
        self._limits = image_limits(settings)
        size = self.model.manifest.input
        self._fit = (size.height, size.width)

    def in_threads(self, image: bytes, count: int) -> float:
        """Images per second with decode workers that are threads."""

        def decode(ready: queue.Queue[Radiograph], tickets: Tickets) -> None:
            while tickets.take():
                ready.put(read_study(image, limits=self._limits, fit=self._fit)[0])

        def feed(ready: queue.Queue[Radiograph]) -> None:
            tickets = Tickets(count)
            _all([lambda: decode(ready, tickets)] * self.workers)

        return self._timed(feed, count)

    def in_processes(self, image: bytes, count: int) -> float:
        """Images per second with the agent's decode processes, which are started before."""
        with asyncio.Runner() as runner:
            workers = DecoderPool(self._limits, DecodePolicy(workers=self.workers))
            runner.run(workers.start())

            async def decode(ready: queue.Queue[Radiograph], tickets: Tickets) -> None:
                while tickets.take():
                    decoded = await workers.decode(image, fit=self._fit)
                    while ready.full():  # noqa: ASYNC110  # nothing to wait for in a plain queue
                        await asyncio.sleep(0.001)
                    ready.put(decoded.radiograph)

            async def feed(ready: queue.Queue[Radiograph]) -> None:
                tickets = Tickets(count)
                await asyncio.gather(*(decode(ready, tickets) for _ in range(self.workers)))

            try:
                return self._timed(lambda ready: runner.run(feed(ready)), count)
            finally:
                runner.run(workers.close())

    def _timed(self, feed: Callable[[queue.Queue[Radiograph]], None], count: int) -> float:
        ready: queue.Queue[Radiograph] = queue.Queue(_QUEUED)
        tickets = Tickets(count)

        def work() -> None:
            while tickets.take():
                self._look(ready.get())

        lookers = [
            threading.Thread(target=work) for _ in range(self.model.batch_policy.parallel_requests)
        ]
        start = time.perf_counter()
        for looker in lookers:
            looker.start()
        feed(ready)
        for looker in lookers:
            looker.join()
        return count / (time.perf_counter() - start)

    def _look(self, radiograph: Radiograph) -> None:
        timer = StageTimer()
        job = InferenceJob(radiograph, None, timer, time.perf_counter())
        (result,) = run_inference(self.model, [job])
        if isinstance(result, Exception):
            raise result


class Tickets:
    """A number of tasks that threads share."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Return whether a task was left, and take it."""
        with self._lock:
            self._left -= 1
            return self._left >= 0


def _all(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Clients:
    """Callers of one agent, each with a connection of its own and one request in flight.

    As cheap as Python's gRPC allows, for they share the agent's cores: the message is made once,
    the answer stays bytes.
    """

    def __init__(self, address: str, count: int) -> None:
        own = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        self._channels = [grpc.insecure_channel(address, options=own) for _ in range(count)]
        self._calls = [channel.unary_unary(DETECT) for channel in self._channels]
        for channel in self._channels:
            grpc.channel_ready_future(channel).result(60)

    def run(self, image: bytes, count: int) -> float:
        """Images per second for so many requests. Raises what any of them raised."""
        message = pb.DetectRequest(image=image).SerializeToString()
        tickets = Tickets(count)
        ended: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

        def ask(call: grpc.UnaryUnaryMultiCallable[bytes, bytes]) -> None:
            if tickets.take():
                call.future(message).add_done_callback(lambda future: answered(call, future))

        def answered(
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes], future: grpc.Future[bytes]
        ) -> None:
            ended.put(future.exception())
            ask(call)

        start = time.perf_counter()
        for call in self._calls:
            ask(call)
        problems = [problem for _ in range(count) if (problem := ended.get()) is not None]
        spent_s = time.perf_counter() - start
        if problems:
            raise problems[0]
        return count / spent_s

    def close(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            channel.close()


@contextmanager
def clients(address: str, count: int) -> Iterator[Clients]:
    """Yield clients that are closed at the end."""
    callers = Clients(address, count)
    try:
        yield callers
    finally:
        callers.close()
