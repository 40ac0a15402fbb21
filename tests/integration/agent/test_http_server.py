"""The HTTP API on a real port: behaviour that only a socket shows."""

from __future__ import annotations

import asyncio
import json
import ssl
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from edge_agent.core.request_origin import parse_trusted_hosts
from edge_agent.errors import ConfigInvalid
from edge_agent.security.tls import ReloadingTls, TlsFiles
from edge_agent.serving.http.endpoints import HttpLimits
from edge_agent.serving.http.server import HttpServer
from tests.support.agents.certificates import Authority
from tests.support.agents.http import file_form, http_app, serve_app
from tests.support.agents.tagged import (
    SIDE,
    Latch,
    eventually,
    fake_pipeline,
    in_flight,
    settings,
    tagged_png,
)
from tests.support.engines.fake_engine import FakeEngine

SMALL = HttpLimits(max_image_bytes=200_000, max_batch_bytes=400_000)


async def exchange(origin: str, sent: bytes, *, until_closed: bool = True) -> bytes:
    """Send bytes unchanged; return the response."""
    host, port = origin.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        await writer.drain()
        if until_closed:
            return await asyncio.wait_for(reader.read(), 20)
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    finally:
        writer.close()


async def test_predict_answers_over_the_network() -> None:
    async with serve_app(http_app()) as origin, httpx.AsyncClient(base_url=origin) as client:
        answer = await client.post("/predict", **file_form(tagged_png(200)))
        assert answer.json()["predictions"][0]["confidence"] == pytest.approx(200 / 255, abs=1e-6)
        assert "server" not in answer.headers


async def test_each_response_belongs_to_its_request() -> None:
    tags = list(range(120, 250, 5))
    async with serve_app(http_app()) as origin, httpx.AsyncClient(base_url=origin) as client:
        answers = await asyncio.gather(
            *(client.post("/predict", **file_form(tagged_png(tag))) for tag in tags)
        )
    scores = [answer.json()["predictions"][0]["confidence"] for answer in answers]
    assert scores == pytest.approx([tag / 255 for tag in tags], abs=1e-6)


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
async def test_the_refusal_of_a_large_body_reaches_its_caller(*, declared: bool) -> None:
    """The response must not be lost even if the caller sends the whole body before it reads."""
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        + b"x" * 8_000_000
    )
    length = f"Content-Length: {len(body)}" if declared else "Transfer-Encoding: chunked"
    head = (
        "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\n{length}\r\n\r\n"
    )
    framed = body if declared else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    async with serve_app(http_app(limits=SMALL)) as origin:
        answer = await exchange(origin, head.encode() + framed, until_closed=False)
        assert answer.startswith(b"HTTP/1.1 413 ")
        async with httpx.AsyncClient(base_url=origin) as client:
            assert (await client.get("/healthz")).status_code == 200


async def test_a_caller_that_expects_continue_need_not_send_the_body() -> None:
    head = (
        b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 8000000\r\n\r\n"
    )
    async with serve_app(http_app(limits=SMALL)) as origin:
        answer = await exchange(origin, head)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()
    assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["code"] == "too_large"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nX: "
        + b"x" * 50_000
        + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
    ],
    ids=["huge-header", "tls-on-a-plain-port", "negative-length"],
)
async def test_bytes_that_are_not_http_are_refused_and_affect_no_other_caller(sent: bytes) -> None:
    async with serve_app(http_app()) as origin:
        assert (await exchange(origin, sent)).split()[1] in {b"400", b"431"}
        async with httpx.AsyncClient(base_url=origin) as client:
            assert (await client.get("/healthz")).status_code == 200


async def test_a_caller_that_disconnects_leaves_the_queue() -> None:
    latch = Latch()
    service = fake_pipeline(
        settings(limits={"queue_size": 2}), None, FakeEngine(SIDE, SIDE, before=latch)
    )
    async with (
        serve_app(http_app(service)) as origin,
        httpx.AsyncClient(base_url=origin) as client,
    ):
        staying = asyncio.ensure_future(client.post("/predict", **file_form(tagged_png(200))))
        await latch.wait_for_arrival(200)
        leaving = asyncio.ensure_future(client.post("/predict", **file_form(tagged_png(201))))
        await eventually(lambda: in_flight(service) == 2)
        leaving.cancel()
        await eventually(lambda: in_flight(service) == 1)
        latch.release(200)
        assert (await staying).json()["predictions"][0]["confidence"] == pytest.approx(200 / 255)
        assert not latch.has_arrived(201)
    await service.close()


async def test_the_drain_finishes_running_requests() -> None:
    latch = Latch()
    service = fake_pipeline(settings(), None, FakeEngine(SIDE, SIDE, before=latch))
    server = HttpServer(http_app(service), host="127.0.0.1", port=0)
    await server.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        posted = asyncio.ensure_future(client.post("/predict", **file_form(tagged_png(200))))
        await latch.wait_for_arrival(200)
        draining = asyncio.ensure_future(server.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        latch.release(200)
        assert (await posted).status_code == 200
        await draining
        await server.stop()
        with pytest.raises(httpx.ConnectError):
            await client.get("/healthz")
    await service.close()


async def test_a_port_in_use_is_a_configuration_error(caplog: pytest.LogCaptureFixture) -> None:
    async with serve_app(http_app()) as origin:
        port = int(origin.rpartition(":")[2])
        with pytest.raises(ConfigInvalid, match=str(port)):
            await HttpServer(http_app(), host="127.0.0.1", port=port).start()


async def test_tls_is_used_if_configured(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued = authority.server()
    tls = ReloadingTls(TlsFiles(issued.certificate, issued.key), lambda: datetime.now(UTC))
    server = HttpServer(
        http_app(trusted_hosts=parse_trusted_hosts("https")), host="127.0.0.1", port=0, tls=tls
    )
    await server.start()
    origin = f"https://127.0.0.1:{server.port}"
    trusted = ssl.create_default_context(cafile=authority.certificate)
    async with httpx.AsyncClient(base_url=origin, verify=trusted) as client:
        own = {"Origin": origin}
        answer = await client.post("/predict", **file_form(tagged_png(200)), headers=own)
        assert answer.status_code == 200
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.TransportError):
            await client.get(origin.replace("https", "http") + "/healthz")
    await server.stop()
