import base64
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent.core.authorization import (
    LOOPBACK,
    Action,
    DenialReason,
    Denied,
    Principal,
    Role,
    check_listeners,
)
from edge_agent.errors import ConfigInvalid
from edge_agent.security.api_keys import ApiKeyStore, IssuedKey, add_key, remove_key
from edge_agent.security.authentication import (
    Authenticator,
    ClientCredentials,
    grpc_caller,
    http_caller,
)
from edge_agent.security.client_certificates import CertificateRules
from tests.support.agents.certificates import NOW, Authority

LOCAL = ClientCredentials("127.0.0.1")


def utc_now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def clinic(path: Path) -> IssuedKey:
    return add_key(path, role=Role.CLINIC, now=NOW)


@pytest.fixture
def gate(path: Path, clinic: IssuedKey) -> Authenticator:
    return Authenticator("gRPC", "0.0.0.0", tls=True, keys=ApiKeyStore(path, utc_now))  # noqa: S104


def test_an_open_gate_lets_the_box_itself_detect() -> None:
    gate = Authenticator("gRPC", "127.0.0.1", tls=False)
    assert gate.decide(Action.DETECT, LOCAL) == LOOPBACK
    assert isinstance(gate.decide(Action.ADMINISTER, LOCAL), Denied)
    assert gate.identify(ClientCredentials("127.0.0.1", forwarded=True)) == Denied(
        DenialReason.FORWARDED
    )
    assert gate.identify(ClientCredentials("127.0.0.1", key="x")) == Denied(
        DenialReason.UNKNOWN_CREDENTIAL
    )


def test_a_gate_with_keys_wants_one_even_from_the_box_itself(
    gate: Authenticator, clinic: IssuedKey
) -> None:
    check_listeners([gate.listener])
    assert gate.identify(LOCAL) == Denied(DenialReason.NO_CREDENTIAL)
    who = gate.decide(Action.DETECT, ClientCredentials("10.0.0.9", key=clinic.token))
    assert who == Principal(clinic.record.actor, Role.CLINIC)


def test_a_key_file_that_runs_empty_does_not_open_the_gate(path: Path, clinic: IssuedKey) -> None:
    gate = Authenticator("gRPC", "127.0.0.1", tls=False, keys=ApiKeyStore(path, utc_now))
    remove_key(path, clinic.record.id)
    assert gate.identify(LOCAL) == Denied(DenialReason.NO_CREDENTIAL)
    path.unlink()
    assert gate.identify(LOCAL) == Denied(DenialReason.NO_CREDENTIAL)
    assert gate.problems() == [f"{path} is gone."]


def test_problems_of_the_files_are_told(gate: Authenticator, path: Path, clinic: IssuedKey) -> None:
    assert gate.problems() == []
    path.chmod(0o644)
    assert isinstance(gate.identify(ClientCredentials("10.0.0.9", key=clinic.token)), Principal)
    assert "by others" in gate.problems()[0]


def test_certificates_count_where_the_gate_has_rules(tmp_path: Path, path: Path) -> None:
    pem = Authority(tmp_path).client("CN=pacs").certificate_pem
    rules = tmp_path / "clients.toml"
    rules.write_text('[[certificate]]\nsubject = "CN=pacs"\nrole = "viewer"\n')
    gate = Authenticator(
        "gRPC", "10.0.0.7", tls=True, certificates=CertificateRules(rules, utc_now)
    )
    check_listeners([gate.listener])
    caller = ClientCredentials("10.0.0.9", certificate=pem)
    assert gate.decide(Action.MODEL, caller) == Principal("cert:CN=pacs", Role.VIEWER)
    assert isinstance(gate.decide(Action.DETECT, caller), Denied)
    without_rules = Authenticator("gRPC", "127.0.0.1", tls=True)
    assert without_rules.identify(ClientCredentials("127.0.0.1", certificate=pem)) == LOOPBACK


def test_a_gate_without_roles_must_not_open_beyond_loopback() -> None:
    with pytest.raises(ConfigInvalid, match="no roles"):
        check_listeners([Authenticator("HTTP", "10.0.0.7", tls=True).listener])


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "key"),
    [
        ("Bearer hilum_x", "hilum_x"),
        ("bearer  hilum_x ", "hilum_x"),
        (basic("anybody", "hilum_x"), "hilum_x"),
        (basic("", "hilum:x"), "hilum:x"),
        ("Bearer", ""),
        ("", ""),
        ("hilum_x", ""),
        ("Basic !!!", ""),
        ("Basic /w==", ""),
        ("Negotiate abc", ""),
    ],
)
def test_keys_are_read_from_authorization(authorization: str, key: str) -> None:
    assert grpc_caller("unix:", [("authorization", authorization)], {}).key == key
    headers = [(b"Authorization", authorization.encode())]
    assert http_caller("127.0.0.1", headers).key == key


def test_two_keys_at_once_are_none() -> None:
    twice = [("authorization", "Bearer a"), ("authorization", "Bearer a")]
    assert grpc_caller("unix:", twice, {}).key == ""


def test_no_header_is_no_key() -> None:
    assert grpc_caller("unix:", [("user-agent", "x"), ("trace-bin", b"\xff")], {}).key is None
    assert http_caller("127.0.0.1", [(b"host", b"localhost")]).key is None


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:127.0.0.1:50000", "127.0.0.1"),
        ("ipv6:%5B::1%5D:50000", "::1"),
        ("ipv6:[::1]:50000", "::1"),
        ("ipv4:10.0.0.9:1", "10.0.0.9"),
        ("unix:", ""),
        ("unix:/run/hilum.sock", ""),
        ("unknown", "unknown"),
        ("", ""),
    ],
)
def test_grpcs_peers_are_read(peer: str, host: str) -> None:
    assert grpc_caller(peer, [], {}).peer_host == host


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "x-real-ip"])
def test_calls_that_a_proxy_passed_on_are_marked(header: str) -> None:
    assert grpc_caller("unix:", [(header.lower(), "x")], {}).forwarded
    assert http_caller("127.0.0.1", [(header.encode(), b"x")]).forwarded


def test_credentials_stay_out_of_logs(clinic: IssuedKey) -> None:
    caller = ClientCredentials("10.0.0.9", key=clinic.token, certificate=b"PEM")
    assert clinic.token not in repr(caller)
    assert "PEM" not in repr(caller)
