"""Addresses that need TLS, and settings of a connection; no connection is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from hilum.client import AsyncClient, Client, Tls
from hilum.client.connection import Connection, is_local

LOCAL = (
    "127.0.0.1:50051",
    "127.9.9.9:1",
    "localhost:50051",
    "[::1]:50051",
    "dns:localhost:50051",
    "dns:///localhost:50051",
    "ipv4:127.0.0.1:50051",
    "ipv6:[::1]:50051",
    "unix:/run/hilum.sock",
    "unix-abstract:hilum",
)
REMOTE = (
    "10.0.0.7:50051",
    "box-7:50051",
    "0.0.0.0:50051",
    "[fd00::7]:50051",
    "localhost.example:50051",
    "127.0.0.1.example:50051",
    "dns://10.0.0.1/localhost:50051",
    "ipv4:127.0.0.1:50051,10.0.0.7:50051",
    "xds:///localhost",
)


@pytest.mark.parametrize("address", LOCAL)
def test_loopback_and_unix_sockets_are_local(address: str) -> None:
    assert is_local(address)


@pytest.mark.parametrize("address", REMOTE)
@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_an_address_beyond_this_machine_needs_tls(
    client: type[Client | AsyncClient], address: str
) -> None:
    assert not is_local(address)
    for key in (None, "key"):
        with pytest.raises(ValueError, match="TLS"):
            client(address, api_key=key)


def test_an_address_beyond_this_machine_is_accepted_with_tls() -> None:
    assert Connection.prepare("10.0.0.7:50051", Tls(), None, None).credentials is not None


@pytest.mark.parametrize("key", ["", " ", "two words", "line\nbreak", "schlüssel", "\x00"])
def test_an_invalid_key_is_refused_without_quoting_it(key: str) -> None:
    with pytest.raises(ValueError, match="API key") as caught:
        Connection.prepare("127.0.0.1:1", None, key, None)
    assert not key.strip() or key not in str(caught.value)


def test_the_representation_does_not_contain_the_key(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("s3cret\n")
    connection = Connection.prepare("127.0.0.1:1", None, None, file)
    assert connection.metadata == (("authorization", "Bearer s3cret"),)
    assert "s3cret" not in repr(connection)


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not both"):
        Client("127.0.0.1:1", api_key="key", api_key_file=tmp_path / "key")
    with pytest.raises(ValueError, match="belong together"):
        Tls(certificate="client.pem")
    with pytest.raises(ValueError, match="missing"):
        Client("")
    with pytest.raises(FileNotFoundError):
        Client("127.0.0.1:1", tls=Tls(ca=tmp_path / "none.pem"))
    with pytest.raises(FileNotFoundError):
        Client("127.0.0.1:1", api_key_file=tmp_path / "none")
