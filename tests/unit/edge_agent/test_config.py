from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from edge_agent.config import Settings, load_settings
from edge_agent.errors import ConfigInvalid
from hilum.codes import ErrorCode


@pytest.fixture(autouse=True)
def remove_settings_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("HILUM_EDGE__"):
            monkeypatch.delenv(name)


def toml(folder: Path, text: str) -> Path:
    file = folder / "edge.toml"
    file.write_text(text)
    return file


def test_defaults_listen_on_this_machine_only() -> None:
    settings = load_settings()
    assert settings.grpc.address == "127.0.0.1:50051"
    assert settings.bundle is None
    assert settings.engine.variant == "auto"
    assert settings.limits.max_pixels == 64_000_000


def test_each_source_overrides_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = toml(tmp_path, '[grpc]\nport = 1\nhost = "127.0.0.2"\n[limits]\nqueue_size = 1\n')
    assert load_settings(file).grpc.port == 1
    monkeypatch.setenv("HILUM_EDGE__GRPC__PORT", "2")
    assert load_settings(file).grpc.port == 2
    settings = load_settings(file, {"grpc": {"port": 3}})
    assert settings.grpc.address == "127.0.0.2:3"
    assert settings.limits.queue_size == 1


def test_cache_follows_the_xdg_specification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert load_settings().cache_dir == tmp_path / "hilum"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", "/home/someone")
    assert load_settings().cache_dir == Path("/home/someone/.cache/hilum")


@pytest.mark.parametrize(
    "wrong",
    [{"certificate": "a.pem"}, {"key": "a.key"}, {"client_ca": "ca.pem"}],
)
def test_incomplete_tls_files_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigInvalid, match="tls") as caught:
        load_settings(None, {"tls": wrong})
    assert caught.value.code is ErrorCode.CONFIG_INVALID


def test_state_follows_the_xdg_specification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert load_settings().audit_dir == tmp_path / "hilum" / "audit"
    assert load_settings(None, {"audit": {"folder": "/log"}}).audit_dir == Path("/log")
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", "/home/someone")
    assert load_settings().state_dir == Path("/home/someone/.local/state/hilum")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_every_loopback_address_is_accepted(host: str) -> None:
    assert load_settings(None, {"grpc": {"host": host}}).grpc.host == host


def test_ipv6_hosts_are_written_in_brackets() -> None:
    assert load_settings(None, {"grpc": {"host": "::1"}}).grpc.address == "[::1]:50051"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[grpc]\nprot = 1", "grpc.prot: there is no such setting"),
        ("[grcp]\nport = 1", "grcp: there is no such setting"),
        ("[grpc]\nport = 70000", "grpc.port"),
        ("[grpc]\nport = 'many'", "grpc.port"),
        ("[limits]\nqueue_size = 0", "limits.queue_size"),
        ("drain_timeout_s = nan", "drain_timeout_s"),
        ("[grpc", "is not TOML"),
        ("\udcff", "is not TOML"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "edge.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigInvalid) as caught:
        load_settings(file)
    assert message in caught.value.message
    assert caught.value.hint


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigInvalid, match=r"/nowhere/edge\.toml cannot be read: No such file"):
        load_settings(Path("/nowhere/edge.toml"))


@pytest.mark.parametrize("name", ["HILUM_EDGE__BUNDEL", "HILUM_EDGE__GRPC__PROT"])
def test_a_misspelt_variable_is_not_ignored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigInvalid):
        load_settings()


def test_a_variable_that_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HILUM_EDGE__GRPC", "{not json")
    with pytest.raises(ConfigInvalid, match="environment"):
        load_settings()


def test_settings_do_not_change() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError):
        settings.grpc.port = 1  # type: ignore[misc]
    assert isinstance(settings, Settings)
