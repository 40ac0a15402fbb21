"""What the network face adds: a gRPC round trip with RG1 beside decoding and inference alone."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import grpc

from edge_agent.config import load_settings
from edge_agent.loading import open_pipeline
from edge_agent.serving.answer import StudyRequest
from hilum.v1 import detection_pb2 as pb
from hilum.v1 import detection_pb2_grpc
from tests.agents import agent_process, serving_line
from tests.conftest import pydicom_file

ROUNDS = 40
WARM_UP = 5


def run() -> None:
    """Print the table: an agent as its own process and the bare pipeline here, taken in turns."""
    for name in ("RG1_UNCI.dcm", "RG1_J2KI.dcm"):
        for line in _measure(name):
            print(line)


def _measure(name: str) -> list[str]:
    image = pydicom_file(name).read_bytes()
    spent: list[pb.Timings] = []
    with agent_process("--port", "0") as process, asyncio.Runner() as runner:
        address = serving_line(process)["address"]
        stack = AsyncExitStack()
        pipeline = runner.run(stack.enter_async_context(open_pipeline(load_settings())))
        with grpc.insecure_channel(address) as channel:
            detector = detection_pb2_grpc.DetectorStub(channel)
            whole, inner = _interleaved(
                lambda: spent.append(detector.Detect(pb.DetectRequest(image=image)).timings),
                lambda: runner.run(pipeline.detect(StudyRequest("bench", image))),
            )
        runner.run(stack.aclose())
    decode = statistics.median(t.decode_ms for t in spent[WARM_UP:])
    infer = statistics.median(t.infer_ms for t in spent[WARM_UP:])
    return [
        f"One radiograph ({name}, {len(image) / 1e6:.1f} MB), medians of {ROUNDS}:",
        f"  decoding in the agent           {decode:7.1f} ms",
        f"  inference in the agent          {infer:7.1f} ms",
        f"  round trip over gRPC            {whole:7.1f} ms",
        f"  of which beside those two       {whole - decode - infer:7.1f} ms",
        f"  bare pipeline, no network       {inner:7.1f} ms",
    ]


def _interleaved(*calls: Callable[[], object]) -> list[float]:
    """Median milliseconds of each call, taken in turns so that all see the same machine."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(WARM_UP + ROUNDS):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(taken[WARM_UP:]) for taken in times]


if __name__ == "__main__":
    run()
