"""The cost of the network: a gRPC round trip with RG1, minus decoding and inference.

It is compared with gRPC alone: the same message sent to a server that only counts its bytes.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import grpc

from edge_agent.app.models import open_detection_service
from edge_agent.config import load_settings
from edge_agent.serving.types import DetectionRequest
from hilum.v1 import detection_pb2 as pb
from hilum.v1 import detection_pb2_grpc
from tests.bench.echo import METHOD, echo_server
from tests.bench.load import agents_cache, images
from tests.support.agents.tagged import agent_process, serving_line

ROUNDS = 40
WARM_UP = 5


def run() -> None:
    """Print the table: an agent in its own process, a detection service in this one."""
    print(
        f"One request at a time, medians of {ROUNDS} in ms. Target: at most 3 ms beyond those two."
    )
    print(
        "| RG1 | decoding | inference | round trip | minus those two | of that, bare gRPC "
        "| no network |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, image in images().items():
        print(_row(f"{name}, {len(image) / 1e6:.1f} MB", image), flush=True)


def _row(title: str, image: bytes) -> str:
    spent: list[pb.Timings] = []
    with (
        agent_process("--port", "0") as process,
        echo_server() as echo_address,
        asyncio.Runner() as runner,
    ):
        address = serving_line(process)["address"]
        stack = AsyncExitStack()
        settings = load_settings(None, {"cache_dir": agents_cache()})
        pipeline = runner.run(stack.enter_async_context(open_detection_service(settings)))
        with grpc.insecure_channel(address) as channel, grpc.insecure_channel(echo_address) as bare:
            detector = detection_pb2_grpc.DetectorStub(channel)
            count = bare.unary_unary(METHOD, pb.DetectRequest.SerializeToString)
            whole, inner, echo = _interleaved(
                lambda: spent.append(detector.Detect(pb.DetectRequest(image=image)).timings),
                lambda: runner.run(pipeline.detect(DetectionRequest("bench", image))),
                lambda: count(pb.DetectRequest(image=image)),
            )
        runner.run(stack.aclose())
    decode = statistics.median(t.decode_ms for t in spent[WARM_UP:])
    infer = statistics.median(t.infer_ms for t in spent[WARM_UP:])
    beside = whole - decode - infer
    return (
        f"| {title} | {decode:.1f} | {infer:.1f} | {whole:.1f} | {beside:.1f} | {echo:.1f} "
        f"| {inner:.1f} |"
    )


def _interleaved(*calls: Callable[[], object]) -> list[float]:
    """Median milliseconds of each call, alternating, so that all run on an equally busy machine."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(WARM_UP + ROUNDS):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(taken[WARM_UP:]) for taken in times]


if __name__ == "__main__":
    run()
