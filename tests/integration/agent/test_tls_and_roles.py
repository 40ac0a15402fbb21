"""Ports with TLS: which credentials are accepted, and what the audit log records."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvicorn

from edge_agent.audit.log import AuditLog
from edge_agent.audit.verify import verify
from edge_agent.core.audit_chain import make_access_event
from edge_agent.core.authorization import Action, Denied, Role, check_listeners
from edge_agent.security.api_keys import ApiKeyStore, IssuedKey, add_key
from edge_agent.security.authentication import (
    Authenticator,
    ClientCredentials,
    read_grpc_credentials,
    read_http_credentials,
)
from edge_agent.security.client_certificates import CertificateRules
from edge_agent.security.tls import (
    ReloadingTls,
    TlsFiles,
    make_grpc_credentials,
    make_uvicorn_tls,
)
from tests.support.agents.audit_logs import read_entries
from tests.support.agents.certificates import NOW, Authority, Issued

pytestmark = pytest.mark.slow


def utc_now() -> datetime:
    return datetime.now(UTC)


class Site:
    """An agent's files: a CA, keys in two roles, rules for certificates and an audit log."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.server = self.authority.server()
        self.keys = folder / "keys.json"
        self.viewer = add_key(self.keys, role=Role.VIEWER, now=NOW)
        self.clinic = add_key(self.keys, role=Role.CLINIC, now=NOW)
        self.rules = folder / "clients.toml"
        self.rules.write_text('[[certificate]]\nsubject = "CN=pacs"\nrole = "clinic"\n')
        self.log_folder = folder / "audit"
        self.log = AuditLog(self.log_folder, utc_now=utc_now)

    def tls(self, *, mutual: bool) -> ReloadingTls:
        client_ca = self.authority.certificate if mutual else None
        files = TlsFiles(self.server.certificate, self.server.key, client_ca)
        return ReloadingTls(files, utc_now)

    def authenticator(self, name: str, *, mutual: bool = False) -> Authenticator:
        authenticator = Authenticator(
            name,
            "0.0.0.0",  # noqa: S104  # as beyond loopback
            tls=True,
            keys=ApiKeyStore(self.keys, utc_now),
            certificates=CertificateRules(self.rules, utc_now) if mutual else None,
        )
        check_listeners([authenticator.listener])
        return authenticator

    def decide(self, authenticator: Authenticator, caller: ClientCredentials) -> str:
        """Authorize and log a detection, as a transport does; return the actor or the reason."""
        self.log.require()
        who = authenticator.decide(Action.DETECT, caller)
        self.log.record(make_access_event(who, Action.DETECT))
        return who.reason if isinstance(who, Denied) else who.actor

    def logged(self) -> list[tuple[str, str, str]]:
        assert self.log.close() == 0
        assert verify(self.log_folder).is_intact
        found = read_entries(self.log_folder)
        return [
            (it["actor"], it["role"], it["outcome"]) for it in found if it["action"] == "detect"
        ]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.log.close()


class DecisionHandler(grpc.GenericRpcHandler):
    """A handler that answers every call with the decision about its caller."""

    def __init__(self, site: Site, authenticator: Authenticator) -> None:
        self._site, self._authenticator = site, authenticator

    def service(self, handler_call_details: Any) -> Any:
        async def answer(request: bytes, context: Any) -> bytes:
            caller = read_grpc_credentials(
                context.peer(), context.invocation_metadata() or (), context.auth_context()
            )
            return self._site.decide(self._authenticator, caller).encode()

        return grpc.unary_unary_rpc_method_handler(answer)


async def call(
    site: Site, *, mutual: bool, key: IssuedKey | None = None, certificate: Issued | None = None
) -> str:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (DecisionHandler(site, site.authenticator("gRPC", mutual=mutual)),)
    )
    port = server.add_secure_port("127.0.0.1:0", make_grpc_credentials(site.tls(mutual=mutual)))
    await server.start()
    credentials = grpc.ssl_channel_credentials(
        site.authority.certificate.read_bytes(),
        certificate.key_pem if certificate else None,
        certificate.certificate_pem if certificate else None,
    )
    metadata = [("authorization", f"Bearer {key.token}")] if key else None
    try:
        async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
            answer: bytes = await channel.unary_unary("/x/Y")(b"", metadata=metadata, timeout=30)
            return answer.decode()
    finally:
        await server.stop(None)


async def test_grpc_authenticates_by_key(site: Site) -> None:
    assert await call(site, mutual=False, key=site.clinic) == site.clinic.record.actor
    assert await call(site, mutual=False, key=site.viewer) == "role_too_low"
    assert await call(site, mutual=False) == "no_credential"
    # A certificate that the server did not request is not sent.
    pacs = site.authority.client("CN=pacs")
    assert await call(site, mutual=False, certificate=pacs) == "no_credential"
    assert site.logged() == [
        (site.clinic.record.actor, "clinic", "ok"),
        (site.viewer.record.actor, "", "role_too_low"),
        ("unknown", "", "no_credential"),
        ("unknown", "", "no_credential"),
    ]


async def test_grpc_authenticates_by_certificate(site: Site) -> None:
    pacs = site.authority.client("CN=pacs")
    assert await call(site, mutual=True, certificate=pacs) == "cert:CN=pacs"
    stranger = site.authority.client("CN=stranger")
    assert await call(site, mutual=True, certificate=stranger) == "unknown_credential"
    assert await call(site, mutual=True, certificate=pacs, key=site.viewer) == "role_too_low"
    actors = [actor for actor, _, _ in site.logged()]
    assert actors[0] == "cert:CN=pacs"
    assert actors[1].startswith("cert:sha256=")
    assert actors[2] == site.viewer.record.actor


async def test_grpc_refuses_another_cas_certificate_and_none(site: Site, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    forged = Authority(tmp_path / "other").client("CN=pacs")
    for certificate in (forged, None):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(site, mutual=True, certificate=certificate, key=site.clinic)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert site.logged() == []


@contextmanager
def https(site: Site) -> Iterator[int]:
    authenticator = site.authenticator("HTTP")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        caller = read_http_credentials(scope["client"][0], scope["headers"])
        body = site.decide(authenticator, caller).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        lifespan="off",
        log_level="error",
        proxy_headers=False,
        **make_uvicorn_tls(site.tls(mutual=False)),
    )
    server = uvicorn.Server(config)
    with ExitStack() as stack:
        listener = stack.enter_context(config.bind_socket())
        listener.listen()  # From now on, calls wait until the server accepts them.
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        stack.callback(thread.join)
        stack.callback(setattr, server, "should_exit", True)
        yield listener.getsockname()[1]


def test_https_authenticates_by_key(site: Site) -> None:
    context = ssl.create_default_context(cafile=site.authority.certificate)
    bodies = []
    with https(site) as port:
        for headers in (
            {"Authorization": f"Bearer {site.clinic.token}"},
            {"Authorization": f"Bearer {site.clinic.token}x"},
            {},
            {"X-Forwarded-For": "127.0.0.1"},
        ):
            connection = HTTPSConnection("localhost", port, context=context, timeout=30)
            connection.request("POST", "/predict", headers=headers)
            bodies.append(connection.getresponse().read().decode())
            connection.close()
    assert bodies == [
        site.clinic.record.actor,
        "unknown_credential",
        "no_credential",
        "no_credential",
    ]
    assert site.logged()[0] == (site.clinic.record.actor, "clinic", "ok")
