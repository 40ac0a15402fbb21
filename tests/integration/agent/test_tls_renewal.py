"""TLS files of a running agent that are renewed, and certificates whose dates are wrong."""

from __future__ import annotations

import asyncio
import ssl
from datetime import timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest

from edge_agent.app.agent import Agent
from edge_agent.config import Settings
from hilum.client import AsyncClient, DetectError, Tls
from tests.support.agents.certificates import DAY, NOW, Authority, Issued
from tests.support.agents.tagged import fake_pipeline, running_agent, settings, tagged_png

pytestmark = pytest.mark.slow


def tls_settings(server: Issued, client_ca: Path | None = None) -> Settings:
    return settings(
        http={"enabled": True},
        tls={"certificate": server.certificate, "key": server.key, "client_ca": client_ca},
    )


async def served_certificates(agent: Agent) -> list[str]:
    """Return the certificate that each port shows to a new connection, in PEM."""
    ports = (agent.port, agent.http_port)
    get = partial(asyncio.to_thread, ssl.get_server_certificate, timeout=30)
    return [await get(("127.0.0.1", port)) for port in ports]


async def detects(agent: Agent, tls: Tls) -> bool:
    """Return True if a client with this TLS gets an answer over gRPC."""
    async with AsyncClient(f"localhost:{agent.port}", tls=tls) as client:
        try:
            await client.detect(tagged_png(150), timeout_s=30)
        except DetectError as error:
            assert error.code == "unreachable"  # noqa: PT017
            return False
    return True


async def test_both_ports_use_renewed_files_and_open_connections_stay(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = authority.server()
    async with (
        running_agent(tls_settings(server), fake_pipeline) as agent,
        AsyncClient(f"localhost:{agent.port}", tls=Tls(authority.certificate)) as client,
        httpx.AsyncClient(
            base_url=agent.page, verify=ssl.create_default_context(cafile=authority.certificate)
        ) as http,
    ):
        await client.detect(tagged_png(150))
        assert (await http.get("/readyz")).status_code == 200
        old = server.certificate.read_text()
        assert await served_certificates(agent) == [old, old]
        renewed = authority.server(end=NOW + 60 * DAY)

        server.certificate.write_bytes(renewed.certificate_pem)
        assert await served_certificates(agent) == [old, old], "its key has not come yet"
        assert "\nhilum_tls_files_rejected 1.0" in (await http.get("/metrics")).text

        server.key.write_bytes(renewed.key_pem)
        assert await served_certificates(agent) == [renewed.certificate.read_text()] * 2
        metrics = (await http.get("/metrics")).text
        assert "\nhilum_tls_files_rejected 0.0" in metrics
        expiry = (NOW + 60 * DAY).timestamp()
        (line,) = [it for it in metrics.splitlines() if it.startswith("hilum_tls_not_after")]
        assert float(line.split()[1]) == expiry
        await client.detect(tagged_png(151))


async def test_a_new_clients_ca_counts_at_the_next_connection(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other-ca")
    old, new = authority.client("CN=old"), other.client("CN=new")
    client_ca = tmp_path / "clients.pem"
    client_ca.write_bytes(authority.certificate.read_bytes())
    agent_settings = tls_settings(authority.server(), client_ca)

    def tls(issued: Issued) -> Tls:
        return Tls(authority.certificate, issued.certificate, issued.key)

    async with running_agent(agent_settings, fake_pipeline) as agent:
        assert await detects(agent, tls(old))
        assert not await detects(agent, tls(new))
        client_ca.write_bytes(other.certificate.read_bytes())
        assert await detects(agent, tls(new))
        assert not await detects(agent, tls(old))


@pytest.mark.parametrize(
    ("start", "end"), [(-30 * DAY, -DAY), (DAY, 30 * DAY)], ids=["expired", "not yet valid"]
)
async def test_an_agent_whose_certificate_is_not_valid_now_serves_and_logs_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, start: timedelta, end: timedelta
) -> None:
    """A box whose clock is at 1970 has no valid certificate."""
    server = Authority(tmp_path).server(start=NOW + start, end=NOW + end)
    async with running_agent(tls_settings(server), fake_pipeline) as agent:
        (line,) = [it for it in caplog.records if it.message == "a certificate is not valid now"]
        assert str(server.certificate) in vars(line)["problem"]
        async with httpx.AsyncClient(base_url=agent.page, verify=False) as http:  # noqa: S501
            answer = await http.post("/predict", files={"file": ("a", tagged_png(150))})
        assert answer.status_code == 200
