"""An agent that is stopped by a signal while its engine works."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edge_agent.app.agent import Agent
from edge_agent.app.run import serve
from edge_agent.audit.verify import verify
from edge_agent.config import Settings
from edge_agent.decoding.decoder import Decoder
from edge_agent.serving.detection import DetectionService
from hilum.v1 import detection_pb2 as pb
from hilum.v1 import detection_pb2_grpc
from tests.support.agents.audit_logs import read_entries
from tests.support.agents.tagged import (
    LatchedPipeline,
    eventually,
    fake_pipeline,
    hilum_error,
    open_detector,
    settings,
    tag_of,
    tagged_png,
)
from tests.support.system.ports import free_port

pytestmark = pytest.mark.slow

STOPPING = "The agent is stopping."
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def request(tag: int) -> pb.DetectRequest:
    return pb.DetectRequest(request_id=str(tag), image=tagged_png(tag))


async def wait_until_serving(channel: grpc.aio.Channel) -> Any:  # grpc.aio's call is untyped
    """Wait until the agent reports that it serves; return the watch."""
    watch = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(), wait_for_ready=True
    )
    while (await watch.read()).status == NOT_SERVING:
        pass
    return watch


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_after_a_signal_only_requests_in_flight_are_answered(
    signum: signal.Signals,
) -> None:
    latched = LatchedPipeline()
    agent_settings = settings(grpc={"port": free_port()})
    running = asyncio.create_task(serve(agent_settings, latched))
    async with grpc.aio.insecure_channel(agent_settings.grpc.address) as channel:
        detector = detection_pb2_grpc.DetectorStub(channel)
        watch = await wait_until_serving(channel)
        unary = detector.Detect(request(150))
        await latched.latch.wait_for_arrival(150)
        stream = detector.DetectStream()
        await stream.write(request(151))
        await eventually(lambda: latched.in_flight == 2)
        idle_stream = detector.DetectStream()
        await idle_stream.write(pb.DetectRequest(request_id="e"))
        assert (await idle_stream.read()).error.code == "empty_file"

        os.kill(os.getpid(), signum)
        assert (await watch.read()).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await detector.Detect(request(152))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert hilum_error(caught.value).code == "not_ready"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await idle_stream.read()
        assert hilum_error(caught.value).code == "not_ready"
        assert not running.done()

        latched.latch.release(150, 151)
        assert tag_of(await unary) == 150
        assert tag_of((await stream.read()).response) == 151
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await running == 0


async def test_a_drain_that_times_out_exits_with_1() -> None:
    latched = LatchedPipeline()
    agent = Agent(settings(drain_timeout_s=0.05), latched)
    await agent.start()
    await agent.load()
    async with open_detector(agent) as detector:
        call = detector.Detect(request(150))
        await latched.latch.wait_for_arrival(150)
        assert not await agent.stop()
        latched.latch.release(150)
        assert tag_of(await call) == 150
        assert await agent.stop()


async def test_abandoned_requests_are_in_the_audit_log(tmp_path: Path) -> None:
    latched = LatchedPipeline()
    agent_settings = settings(
        drain_timeout_s=1.0,
        audit={"enabled": True, "folder": tmp_path / "log"},
        http={"enabled": True},
    )
    agent = Agent(agent_settings, latched)
    await agent.start()
    await agent.load()
    async with open_detector(agent) as detector, httpx.AsyncClient(base_url=agent.page) as http:
        unary = detector.Detect(request(150))
        await latched.latch.wait_for_arrival(150)
        form = {"file": ("image", tagged_png(151))}
        posted = asyncio.create_task(http.post("/predict", files=form, timeout=60))
        await eventually(lambda: latched.in_flight == 2)
        assert not await agent.stop()
        agent.abandon()
        latched.latch.release(150, 151)
        assert tag_of(await unary) == 150  # The audit log has no second entry for it.
        posted.cancel()
        assert await agent.stop()
    assert verify(tmp_path / "log").is_intact
    entries = read_entries(tmp_path / "log")
    outcomes = [(it["action"], it["outcome"]) for it in entries if it["action"] == "detect"]
    assert outcomes == [("detect", "not_ready")] * 2
    assert entries[-1]["action"] == "log_closed"


async def test_an_agent_that_failed_its_self_test_answers_no_request_while_it_stops() -> None:
    """The upload starts before the signal and ends after it."""

    def load(settings: Settings, decoder: Decoder) -> DetectionService:
        return fake_pipeline(settings, decoder, find_problem=lambda: "It answers wrongly.")

    agent = Agent(settings(http={"enabled": True}), load)
    await agent.start()
    await agent.load()
    upload = httpx.Request("POST", f"{agent.page}predict", files={"file": tagged_png(150)})
    lines = [b"POST /predict HTTP/1.1", b"Expect: 100-continue"]
    lines += [name + b": " + value for name, value in upload.headers.raw]
    reader, writer = await asyncio.open_connection("127.0.0.1", agent.http_port)
    body = upload.read()
    writer.write(b"\r\n".join(lines) + b"\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    writer.write(body[:100])
    stopping = asyncio.create_task(agent.stop())
    async with httpx.AsyncClient(base_url=agent.page) as http:
        assert (await http.get("/readyz")).json()["error"]["message"] == STOPPING
    writer.write(body[100:])
    answer = (await reader.read()).decode()
    assert answer.startswith("HTTP/1.1 503")
    assert '"not_ready"' in answer
    writer.close()
    assert await stopping


HANGS = """
import asyncio, os, signal, sys, threading
from edge_agent.app.run import serve
from tests.support.engines.fake_engine import FakeEngine
from tests.support.agents.tagged import SIDE, fake_pipeline, settings

def hang(batch):
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait()

def load(settings, decoder):
    return fake_pipeline(settings, decoder, FakeEngine(SIDE, SIDE, before=hang))

agent_settings = settings(
    grpc={"port": int(sys.argv[1])}, drain_timeout_s=0.2, state_dir=sys.argv[2]
)
sys.exit(100 + asyncio.run(serve(agent_settings, load)))
"""


async def test_hanging_work_does_not_keep_the_process_from_exiting(tmp_path: Path) -> None:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HANGS, str(port), str(tmp_path / "state")
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await wait_until_serving(channel)
        with pytest.raises(grpc.aio.AioRpcError):
            await detection_pb2_grpc.DetectorStub(channel).Detect(request(150))
    async with asyncio.timeout(60):
        assert await process.wait() == 1


async def test_a_model_that_cannot_be_loaded_ends_the_agent() -> None:
    def fails(settings: Settings, decoder: Decoder) -> DetectionService:
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        await serve(settings(), fails)


async def test_a_recheck_before_the_start_has_no_effect() -> None:
    """The agent runs the golden cases at its start anyway, even if asked while it loads."""
    self_tests = []

    def count_self_test() -> str:
        self_tests.append(1)
        return ""

    def load(settings: Settings, decoder: Decoder) -> DetectionService:
        os.kill(os.getpid(), signal.SIGHUP)
        return fake_pipeline(settings, decoder, find_problem=count_self_test)

    agent_settings = settings(grpc={"port": free_port()})
    running = asyncio.create_task(serve(agent_settings, load))
    await asyncio.sleep(0)  # `serve` runs until its first wait.
    os.kill(os.getpid(), signal.SIGHUP)
    async with grpc.aio.insecure_channel(agent_settings.grpc.address) as channel:
        detector = detection_pb2_grpc.DetectorStub(channel)
        await wait_until_serving(channel)
        assert tag_of(await detector.Detect(request(150))) == 150
    assert len(self_tests) == 1
    os.kill(os.getpid(), signal.SIGHUP)
    await eventually(lambda: len(self_tests) == 2)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0


async def test_a_stop_during_loading_exits_with_0() -> None:
    def load(settings: Settings, decoder: Decoder) -> DetectionService:
        os.kill(os.getpid(), signal.SIGTERM)
        return fake_pipeline(settings, decoder)

    assert await serve(settings(), load) == 0
