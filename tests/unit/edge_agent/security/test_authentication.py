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
    read_grpc_credentials,
    read_http_credentials,
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
def authenticator(path: Path, clinic: IssuedKey) -> Authenticator:
    return Authenticator("gRPC", "0.0.0.0", tls=True, keys=ApiKeyStore(path, utc_now))  # noqa: S104


def test_without_roles_a_caller_on_the_machine_itself_may_detect() -> None:
    authenticator = Authenticator("gRPC", "127.0.0.1", tls=False)
    assert authenticator.decide(Action.DETECT, LOCAL) == LOOPBACK
    assert isinstance(authenticator.decide(Action.ADMINISTER, LOCAL), Denied)
    assert authenticator.identify(ClientCredentials("127.0.0.1", is_forwarded=True)) == Denied(
        DenialReason.FORWARDED
    )
    assert authenticator.identify(ClientCredentials("127.0.0.1", key="x")) == Denied(
        DenialReason.UNKNOWN_CREDENTIAL
    )


def test_with_keys_even_a_caller_on_the_machine_itself_needs_one(
    authenticator: Authenticator, clinic: IssuedKey
) -> None:
    check_listeners([authenticator.listener])
    assert authenticator.identify(LOCAL) == Denied(DenialReason.NO_CREDENTIAL)
    who = authenticator.decide(Action.DETECT, ClientCredentials("10.0.0.9", key=clinic.token))
    assert who == Principal(clinic.record.actor, Role.CLINIC)


def test_an_emptied_key_file_does_not_open_the_port(path: Path, clinic: IssuedKey) -> None:
    keys = ApiKeyStore(path, utc_now)
    authenticator = Authenticator("gRPC", "127.0.0.1", tls=False, keys=keys)
    remove_key(path, clinic.record.id)
    assert authenticator.identify(LOCAL) == Denied(DenialReason.NO_CREDENTIAL)
    path.unlink()
    assert authenticator.identify(LOCAL) == Denied(DenialReason.NO_CREDENTIAL)
    assert keys.problem == f"{path} was removed."


def test_a_problem_of_the_key_file_leaves_the_keys_in_force(path: Path, clinic: IssuedKey) -> None:
    keys = ApiKeyStore(path, utc_now)
    authenticator = Authenticator("gRPC", "0.0.0.0", tls=True, keys=keys)  # noqa: S104
    assert keys.problem is None
    path.chmod(0o644)
    assert isinstance(
        authenticator.identify(ClientCredentials("10.0.0.9", key=clinic.token)), Principal
    )
    assert keys.problem is not None
    assert "by others" in keys.problem


def test_certificates_count_if_there_are_rules(tmp_path: Path, path: Path) -> None:
    pem = Authority(tmp_path).client("CN=pacs").certificate_pem
    rules = tmp_path / "clients.toml"
    rules.write_text('[[certificate]]\nsubject = "CN=pacs"\nrole = "viewer"\n')
    authenticator = Authenticator(
        "gRPC", "10.0.0.7", tls=True, certificates=CertificateRules(rules, utc_now)
    )
    check_listeners([authenticator.listener])
    caller = ClientCredentials("10.0.0.9", certificate=pem)
    assert authenticator.decide(Action.MODEL, caller) == Principal("cert:CN=pacs", Role.VIEWER)
    assert isinstance(authenticator.decide(Action.DETECT, caller), Denied)
    without_rules = Authenticator("gRPC", "127.0.0.1", tls=True)
    assert without_rules.identify(ClientCredentials("127.0.0.1", certificate=pem)) == LOOPBACK


def test_a_port_without_roles_must_not_listen_beyond_loopback() -> None:
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
    assert read_grpc_credentials("unix:", [("authorization", authorization)], {}).key == key
    headers = [(b"Authorization", authorization.encode())]
    assert read_http_credentials("127.0.0.1", headers).key == key


def test_two_keys_count_as_an_invalid_one() -> None:
    twice = [("authorization", "Bearer a"), ("authorization", "Bearer a")]
    assert read_grpc_credentials("unix:", twice, {}).key == ""


def test_no_header_is_no_key() -> None:
    assert (
        read_grpc_credentials("unix:", [("user-agent", "x"), ("trace-bin", b"\xff")], {}).key
        is None
    )
    assert read_http_credentials("127.0.0.1", [(b"host", b"localhost")]).key is None


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
def test_grpc_peers_are_parsed(peer: str, host: str) -> None:
    assert read_grpc_credentials(peer, [], {}).peer_host == host


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "x-real-ip"])
def test_forwarded_calls_are_marked(header: str) -> None:
    assert read_grpc_credentials("unix:", [(header.lower(), "x")], {}).is_forwarded
    assert read_http_credentials("127.0.0.1", [(header.encode(), b"x")]).is_forwarded


def test_credentials_stay_out_of_logs(clinic: IssuedKey) -> None:
    caller = ClientCredentials("10.0.0.9", key=clinic.token, certificate=b"PEM")
    assert clinic.token not in repr(caller)
    assert "PEM" not in repr(caller)
