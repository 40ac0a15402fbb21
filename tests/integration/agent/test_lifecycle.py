"""An agent whose parts fail while it runs: health says so, callers are refused, and it recovers."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edge_agent.app.agent import Agent
from hilum.v1 import detection_pb2 as pb
from hilum.v1 import detection_pb2_grpc
from tests.support.agents.tagged import (
    agent_process,
    fake_pipeline,
    open_channel,
    settings,
    tag_of,
    tagged_png,
    write_toy_bundle,
)
from tests.support.system.disks import fill_disk, small_disk

pytestmark = pytest.mark.slow

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_while_no_access_can_be_logged_the_agent_is_not_ready(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 16 << 20) as disk:
        audit = {"enabled": True, "folder": disk / "audit", "reserve_entries": 700}
        agent = Agent(settings(http={"enabled": True}, audit=audit), fake_pipeline)
        await agent.start()
        await agent.load()
        async with (
            open_channel(agent) as channel,
            httpx.AsyncClient(base_url=agent.page) as http,
        ):
            detector = detection_pb2_grpc.DetectorStub(channel)
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == SERVING
            ballast = fill_disk(disk)
            changed = asyncio.ensure_future(watch.read())
            while not changed.done():  # Each request takes some of the space that is reserved.
                try:
                    await detector.GetModel(pb.GetModelRequest())
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.INTERNAL  # noqa: PT017
                    await asyncio.sleep(0.01)
            assert changed.result().status == NOT_SERVING
            unready = await http.get("/readyz")
            assert unready.status_code == 503
            assert "audit log cannot be written" in unready.json()["error"]["message"]
            assert "\nhilum_ready 0.0" in (await http.get("/metrics")).text
            ballast.unlink()
            assert (await watch.read()).status == SERVING
            assert (await http.get("/readyz")).status_code == 200
            image = pb.DetectRequest(image=tagged_png(150))
            assert tag_of(await detector.Detect(image)) == 150
        assert await agent.stop()


class Systemd:
    """A service manager's end of the datagram socket."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(60)
        self._socket.bind(self.address)
        self.received: list[str] = []

    def wait_for(self, line: str) -> None:
        """Receive messages until one has a line with this beginning."""
        while not any(it.startswith(line) for it in self.receive()):
            pass

    def receive(self) -> list[str]:
        """Return the lines of the next message."""
        lines = self._socket.recv(4096).decode().splitlines()
        self.received += lines
        return lines

    def receive_rest(self) -> None:
        """Receive the messages of a process that has ended."""
        self._socket.setblocking(False)
        try:
            while True:
                self.receive()
        except BlockingIOError:
            pass

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    systemd = Systemd(tmp_path)
    yield systemd
    systemd.close()


def test_systemd_learns_of_the_agents_life(systemd: Systemd, tmp_path: Path) -> None:
    toy = write_toy_bundle(tmp_path / "toy.bundle")
    notify = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "200000"}
    with agent_process("--port", "0", "--bundle", str(toy), environment=notify) as process:
        systemd.wait_for("READY=1")
        assert "STATUS=The agent is loading its model." in systemd.received
        assert "EXTEND_TIMEOUT_USEC=60000000" in systemd.received
        assert "STATUS=The agent is serving." in systemd.received
        systemd.wait_for("WATCHDOG=1")
        process.terminate()
        systemd.wait_for("STOPPING=1")
        assert process.wait(60) == 0
    systemd.receive_rest()
    assert systemd.received.count("READY=1") == systemd.received.count("STOPPING=1") == 1
    assert "STATUS=The agent is stopping." in systemd.received


HANGS = """
import asyncio, sys, threading
from edge_agent.app.run import serve
from edge_agent.system.logging import configure_logging
from tests.support.engines.fake_engine import FakeEngine
from tests.support.agents.tagged import SIDE, fake_pipeline, settings

configure_logging()

def hang_on_an_image(batch):
    if batch.any():
        threading.Event().wait()

def load(settings, decoder):
    return fake_pipeline(settings, decoder, FakeEngine(SIDE, SIDE, before=hang_on_an_image))

agent_settings = settings(
    state_dir=sys.argv[1],
    engine={"hang_timeout_s": 1},
    drain_timeout_s=0.2,
    http={"enabled": True},
)
sys.exit(asyncio.run(serve(agent_settings, load)))
"""


@contextmanager
def hanging_agent(systemd: Systemd, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run an agent whose engine computes blank images and hangs on all others."""
    environment = os.environ | {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "200000"}
    process = subprocess.Popen(
        [sys.executable, "-c", HANGS, str(folder / "state")],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr
        process.stderr.close()


def test_an_engine_that_hangs_gets_no_further_sign_of_life(
    systemd: Systemd, tmp_path: Path
) -> None:
    with hanging_agent(systemd, tmp_path) as process:
        assert process.stderr
        line = next(line for line in process.stderr if " serving " in line)
        page = dict(it.split("=", 1) for it in line.split() if "=" in it)["page"]
        systemd.wait_for("WATCHDOG=1")
        systemd.wait_for("WATCHDOG=1")
        with httpx.Client(base_url=page, timeout=60) as http:
            assert http.get("/readyz").status_code == 200
            with pytest.raises(httpx.TimeoutException):
                http.post("/predict", files={"file": ("a", tagged_png(150))}, timeout=0.5)
            systemd.wait_for("STATUS=The engine hangs: a batch runs for more than 1 s.")
            unready = http.get("/readyz")
            assert unready.status_code == 503
            assert "The engine hangs" in unready.json()["error"]["message"]
            refused = http.post("/predict", files={"file": ("a", tagged_png(151))})
            assert (refused.status_code, json.loads(refused.text)["error"]["code"]) == (
                503,
                "not_ready",
            )
            assert any("an engine does not work" in line for line in process.stderr)
            process.terminate()
            assert process.wait(60) == 1, "the request that hangs was lost"
    begin = systemd.received.index("STATUS=The engine hangs: a batch runs for more than 1 s.")
    systemd.receive_rest()
    assert "WATCHDOG=1" not in systemd.received[begin:]
