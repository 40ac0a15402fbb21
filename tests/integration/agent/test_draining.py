"""Both ports of an agent that stops: what was accepted is answered, what comes later is refused."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from edge_agent.app.agent import Agent
from edge_agent.security.tls import ReloadingTls, TlsFiles
from edge_agent.serving.http.server import HttpServer
from hilum.v1 import detection_pb2 as pb
from hilum.v1 import detection_pb2_grpc
from tests.support.agents.certificates import Authority
from tests.support.agents.http import http_app
from tests.support.agents.tagged import (
    LatchedPipeline,
    hilum_error,
    open_channel,
    open_detector,
    settings,
    tag_of,
    tagged_png,
)

pytestmark = pytest.mark.slow

HTTP = {"enabled": True}


@asynccontextmanager
async def agent_with_work(
    tag: int,
) -> AsyncIterator[tuple[Agent, LatchedPipeline, asyncio.Task[bool]]]:
    """Yield an agent that is told to stop while its engine holds an image of a gRPC caller."""
    latched = LatchedPipeline()
    agent = Agent(settings(http=HTTP), latched)
    await agent.start()
    await agent.load()
    async with open_detector(agent) as detector:
        call = detector.Detect(pb.DetectRequest(image=tagged_png(tag)))
        await latched.latch.wait_for_arrival(tag)
        stopping = asyncio.create_task(agent.stop())
        await asyncio.sleep(0)
        yield agent, latched, stopping
        latched.latch.release(tag)
        assert tag_of(await call) == tag
        assert await stopping


async def test_both_ports_refuse_with_a_time_to_return_until_the_last_answer_of_either() -> None:
    async with (
        agent_with_work(150) as (agent, _latched, stopping),
        open_detector(agent) as detector,
        httpx.AsyncClient(base_url=agent.page) as http,
    ):
        for _ in range(2):
            for method, request in (
                (detector.Detect, pb.DetectRequest(image=tagged_png(151))),
                (detector.GetModel, pb.GetModelRequest()),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await method(request)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                assert hilum_error(caught.value).code == "not_ready"
                assert int(dict(caught.value.trailing_metadata() or ())["hilum-retry-after-ms"]) > 0
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await detector.DetectStream().read()
            assert hilum_error(caught.value).code == "not_ready"
            form = {"files": {"file": ("image", tagged_png(151))}}
            for answer in (
                await http.post("/predict", **form),
                await http.post("/render", **form),
                await http.get("/model"),
                await http.get("/readyz"),
            ):
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
                assert int(answer.headers["retry-after"]) > 1
                assert answer.headers["connection"] == "close"
        assert (await http.get("/healthz")).status_code == 200
        assert "\nhilum_ready 0.0" in (await http.get("/metrics")).text
        assert not stopping.done()


async def test_the_ports_close_after_the_last_answer() -> None:
    async with agent_with_work(150) as (agent, latched, stopping):
        latched.latch.release(150)
        assert await stopping
        async with httpx.AsyncClient(base_url=agent.page) as http:
            with pytest.raises(httpx.ConnectError):
                await http.get("/healthz")
        async with open_detector(agent) as detector:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await detector.GetModel(pb.GetModelRequest())
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_upload_that_began_before_the_stop_is_answered() -> None:
    latched = LatchedPipeline()
    agent = Agent(settings(http=HTTP), latched)
    latched.latch.release(150)
    await agent.start()
    await agent.load()
    upload = httpx.Request("POST", f"{agent.page}predict", files={"file": tagged_png(150)})
    lines = [b"POST /predict HTTP/1.1", b"Expect: 100-continue"]
    lines += [name + b": " + value for name, value in upload.headers.raw]
    reader, writer = await asyncio.open_connection("127.0.0.1", agent.http_port)
    writer.write(b"\r\n".join(lines) + b"\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    body = upload.read()
    writer.write(body[:100])
    stopping = asyncio.create_task(agent.stop())
    async with httpx.AsyncClient(base_url=agent.page) as http:
        assert (await http.get("/readyz")).status_code == 503
    assert not stopping.done()
    writer.write(body[100:])
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert b'"nodule_mass"' in answer or b'"predictions":[{' in answer
    writer.close()
    assert await stopping


async def test_idle_connections_delay_no_stop() -> None:
    """The drain timeout is long; a stop that waited for them would fail with this test's limit."""
    agent = Agent(settings(http=HTTP, drain_timeout_s=600), LatchedPipeline())
    await agent.start()
    await agent.load()
    async with (
        open_channel(agent) as channel,
        httpx.AsyncClient(base_url=agent.page) as http,
    ):
        detector = detection_pb2_grpc.DetectorStub(channel)
        await detector.GetModel(pb.GetModelRequest())
        idle_stream = detector.DetectStream()
        await idle_stream.write(pb.DetectRequest(request_id="e"))
        assert (await idle_stream.read()).error.code == "empty_file"
        assert (await http.get("/healthz")).status_code == 200
        _, half_sent = await asyncio.open_connection("127.0.0.1", agent.http_port)
        half_sent.write(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        async with asyncio.timeout(60):
            assert await agent.stop()
        half_sent.close()


async def test_an_idle_tls_connection_whose_caller_is_silent_delays_no_stop(tmp_path: Path) -> None:
    """Closing TLS asks the caller to take part; one that only keeps the connection does not."""
    authority = Authority(tmp_path)
    issued = authority.server()
    tls = ReloadingTls(TlsFiles(issued.certificate, issued.key), lambda: datetime.now(UTC))
    server = HttpServer(http_app(), host="127.0.0.1", port=0, tls=tls)
    await server.start()
    context = ssl.create_default_context(cafile=authority.certificate)

    def request() -> Any:
        """Get a response over a blocking socket, which answers no `close_notify`."""
        connection = HTTPSConnection("localhost", server.port, context=context)
        connection.request("GET", "/healthz", headers={"Host": "localhost"})
        connection.getresponse().read()
        return connection

    connection = await asyncio.to_thread(request)
    async with asyncio.timeout(20):  # asyncio itself would wait for 30 s.
        await server.drain()
        await server.stop()
    connection.close()


async def test_a_response_that_its_caller_reads_slowly_is_sent_in_full() -> None:
    size = 20_000_000

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * size})

    server = HttpServer(app, host="127.0.0.1", port=0)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 16)
    writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"connection: close" not in head.lower()
    draining = asyncio.create_task(server.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    received = 0
    while not draining.done():
        received += len(await reader.read(1 << 16))
    await server.stop()
    while chunk := await reader.read(1 << 16):
        received += len(chunk)
    assert size <= received < size * 1.01, "the rest is the framing of chunks"
    writer.close()
