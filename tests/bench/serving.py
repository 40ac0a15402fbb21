"""What the network face adds: a gRPC round trip with RG1 beside decoding and inference alone."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

import grpc

from edge_agent.app import Agent, open_pipeline
from edge_agent.config import load_settings
from edge_agent.serving.answer import StudyRequest
from hilum.v1 import detection_pb2 as pb
from hilum.v1 import detection_pb2_grpc
from tests.conftest import pydicom_file

ROUNDS = 40
WARM_UP = 3


def run() -> None:
    """Print the table; all rows in one run, interleaved, medians."""
    for line in asyncio.run(_measure()):
        print(line)


async def _measure() -> list[str]:
    image = pydicom_file("RG1_UNCI.dcm").read_bytes()
    agent = Agent(load_settings(None, {"grpc": {"port": 0}}))
    await agent.start()
    await agent.load()
    try:
        async with (
            grpc.aio.insecure_channel(agent.address) as channel,
            open_pipeline(load_settings()) as pipeline,
        ):
            detector = detection_pb2_grpc.DetectorStub(channel)
            spent: list[pb.Timings] = []

            async def over_grpc() -> None:
                response = await detector.Detect(pb.DetectRequest(image=image))
                spent.append(response.timings)

            async def in_process() -> None:
                await pipeline.detect(StudyRequest("bench", image))

            whole, inner = await _interleaved(over_grpc, in_process)
    finally:
        await agent.stop()
    decode = statistics.median(t.decode_ms for t in spent[WARM_UP:])
    infer = statistics.median(t.infer_ms for t in spent[WARM_UP:])
    return [
        f"One radiograph (RG1, {len(image) / 1e6:.1f} MB, uncompressed), median of {ROUNDS}:",
        f"  decode alone                {decode:7.1f} ms",
        f"  engine alone                {infer:7.1f} ms",
        f"  whole pipeline, in process  {inner:7.1f} ms",
        f"  whole round trip, gRPC      {whole:7.1f} ms",
        f"  what gRPC adds to decoding and inference {whole - decode - infer:5.1f} ms",
    ]


async def _interleaved(*calls: Callable[[], Awaitable[None]]) -> list[float]:
    """Median milliseconds of each call, taken in turns so that all see the same machine."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(WARM_UP + ROUNDS):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            await call()
            taken.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(taken[WARM_UP:]) for taken in times]


if __name__ == "__main__":
    run()
