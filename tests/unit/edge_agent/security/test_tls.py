import contextlib
import errno
import os
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.errors import ConfigInvalid
from edge_agent.security.tls import (
    ReloadingTls,
    Tls,
    TlsFiles,
    load_tls,
    make_reloading_ssl_context,
    make_ssl_context,
)
from hilum.codes import ErrorCode
from tests.support.agents.certificates import DAY, NOW, Authority, Issued, write_key


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def server(authority: Authority) -> Issued:
    return authority.server()


def load(issued: Issued, client_ca: Path | None = None, after: timedelta = 0 * DAY) -> Tls:
    return load_tls(TlsFiles(issued.certificate, issued.key, client_ca), NOW + after)


def refused(issued: Issued, client_ca: Path | None = None, after: timedelta = 0 * DAY) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        load(issued, client_ca, after)
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    assert "PRIVATE KEY" not in caught.value.message
    return caught.value.message


def test_good_files_are_loaded(server: Issued, authority: Authority) -> None:
    tls = load(server, authority.certificate)
    assert tls.not_after == NOW + 30 * DAY
    assert tls.client_ca == authority.certificate.read_bytes()
    assert server.key_pem.decode().splitlines()[1] not in repr(tls)


def test_the_chain_may_follow_the_servers_own_certificate(
    server: Issued, authority: Authority
) -> None:
    own = server.certificate_pem
    server.certificate.write_bytes(own + authority.certificate.read_bytes())
    load(server)
    server.certificate.write_bytes(authority.certificate.read_bytes() + own)
    assert "does not belong to" in refused(server)


def test_missing_files_are_named(server: Issued, tmp_path: Path) -> None:
    absent = tmp_path / "absent.pem"
    assert f"no TLS certificate at {absent}" in refused(Issued(absent, server.key))
    assert f"no TLS key at {absent}" in refused(Issued(server.certificate, absent))
    assert f"no clients' CA at {absent}" in refused(server, absent)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(server: Issued, mode: int) -> None:
    server.key.chmod(mode)
    assert "by others" in refused(server)


def test_a_key_that_a_group_can_read_is_accepted(server: Issued) -> None:
    server.key.chmod(0o640)
    load(server)


def test_another_certificates_key_is_refused(server: Issued, authority: Authority) -> None:
    other = authority.server()
    assert "does not belong to" in refused(Issued(server.certificate, other.key))


@pytest.mark.parametrize(
    ("after", "text"),
    [
        (-2 * DAY, "is not valid before"),
        (30 * DAY, "has expired on"),
        (60 * DAY, "has expired on"),
    ],
)
def test_certificates_that_are_not_valid_now_are_loaded_and_reported(
    server: Issued, after: timedelta, text: str
) -> None:
    (problem,) = load(server, after=after).date_problems
    assert text in problem
    assert "clock" in problem
    assert load(server, after=29 * DAY).date_problems == ()


def test_an_expired_ca_is_loaded_and_reported(authority: Authority) -> None:
    lasting = authority.server(end=NOW + 1000 * DAY)
    (problem,) = load(lasting, authority.certificate, after=500 * DAY).date_problems
    assert "clients' CA" in problem
    assert load(lasting, after=500 * DAY).date_problems == ()


@pytest.mark.parametrize("content", [b"", b"nothing", b"\x30\x82\x01\x00"])
def test_what_is_not_pem_is_refused(server: Issued, content: bytes) -> None:
    key = server.key_pem
    server.key.write_bytes(content)
    assert "no private key in PEM" in refused(server)
    server.key.write_bytes(key)
    server.certificate.write_bytes(content)
    assert "no certificate in PEM" in refused(server)


def test_swapped_files_are_refused(server: Issued) -> None:
    server.certificate.chmod(0o600)
    assert "no certificate in PEM" in refused(Issued(server.key, server.certificate))


def test_a_key_with_a_passphrase_is_refused_without_a_prompt(server: Issued) -> None:
    write_key(server.key, ec.generate_private_key(ec.SECP256R1()), b"secret")
    assert "passphrase" in refused(server)


def test_a_clients_ca_must_be_a_ca(server: Issued, authority: Authority) -> None:
    assert "may not sign others" in refused(server, authority.client("CN=x").certificate)


def test_weak_keys_are_refused_at_the_start(tmp_path: Path) -> None:
    weak = Authority(tmp_path).server(rsa_bits=1024)
    assert "cannot be used" in refused(weak)


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> str:
    """Both ends in memory; the version they settle on."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up, server_hostname="localhost"),
        server.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    version = ends[0].version()
    assert version is not None
    assert ends[1].version() == version
    return version


def client_context(authority: Authority, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.certificate)
    context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.parametrize(
    ("version", "name"),
    [(ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")],
)
def test_tls_1_2_and_1_3_are_supported(
    server: Issued, authority: Authority, version: ssl.TLSVersion, name: str
) -> None:
    assert handshake(make_ssl_context(load(server)), client_context(authority, version)) == name


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_tls_1_1_is_not_supported(server: Issued, authority: Authority) -> None:
    client = client_context(authority, ssl.TLSVersion.TLSv1_1)
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match=r"(?i)unsupported.protocol|protocol.version"):
        handshake(make_ssl_context(load(server)), client)


@pytest.mark.parametrize("cipher", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256"])
def test_weak_tls_1_2_ciphers_are_not_supported(
    server: Issued, authority: Authority, cipher: str
) -> None:
    client = client_context(authority, ssl.TLSVersion.TLSv1_2)
    client.set_ciphers(cipher)
    with pytest.raises(ssl.SSLError, match=r"(?i)no.shared.cipher|handshake.failure"):
        handshake(make_ssl_context(load(server)), client)


def test_der_is_not_pem(server: Issued) -> None:
    der = ssl.PEM_cert_to_DER_cert(server.certificate_pem.decode())
    server.certificate.write_bytes(der)
    assert "PEM" in refused(server)


class TestRenewal:
    """Renewing replaces the files one after the other while the agent runs."""

    @pytest.fixture
    def files(self, server: Issued, authority: Authority) -> TlsFiles:
        return TlsFiles(server.certificate, server.key, authority.certificate)

    @pytest.fixture
    def tls(self, files: TlsFiles) -> ReloadingTls:
        return ReloadingTls(files, lambda: NOW)

    def test_a_renewed_set_is_in_force_when_all_of_it_fits(
        self, files: TlsFiles, tls: ReloadingTls, authority: Authority
    ) -> None:
        old, renewed = tls.get(), authority.server(end=NOW + 60 * DAY)
        assert tls.get() is old
        files.certificate.write_bytes(renewed.certificate_pem)
        assert tls.get() is old, "the old key does not belong to the new certificate"
        assert "does not belong to" in (tls.status.problem or "")
        assert tls.status.not_after == NOW + 30 * DAY
        files.key.write_bytes(renewed.key_pem)
        assert tls.get().certificate == renewed.certificate_pem
        assert (tls.status.problem, tls.status.not_after) == (None, NOW + 60 * DAY)

    @pytest.mark.parametrize("damage", [b"", b"half a key", None])
    def test_a_damaged_set_leaves_the_old_one_in_force_and_is_logged_once(
        self,
        files: TlsFiles,
        tls: ReloadingTls,
        damage: bytes | None,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        old, key = tls.get(), files.key.read_bytes()
        if damage is None:
            files.key.unlink()
        else:
            files.key.write_bytes(damage)
        for _ in range(3):
            assert tls.get() is old
        files.certificate.touch()
        assert tls.get() is old
        assert tls.status.problem is not None
        (line,) = [it for it in caplog.records if "previous ones stay in force" in it.message]
        assert vars(line)["problem"] == tls.status.problem
        write_pem(files.key, key)
        assert tls.get().key == key
        assert tls.status.problem is None

    def test_a_set_that_could_not_be_read_once_is_tried_again(
        self,
        files: TlsFiles,
        tls: ReloadingTls,
        authority: Authority,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fail(name: str, flags: int) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        renewed = authority.server()
        files.certificate.write_bytes(renewed.certificate_pem)
        files.key.write_bytes(renewed.key_pem)
        with monkeypatch.context() as patch:
            patch.setattr(os, "memfd_create", fail)
            assert tls.get().certificate != renewed.certificate_pem
        assert tls.get().certificate == renewed.certificate_pem
        assert tls.status.problem is None

    def test_a_new_clients_ca_is_in_force(
        self, files: TlsFiles, tls: ReloadingTls, tmp_path: Path
    ) -> None:
        assert files.client_ca is not None
        other = Authority(tmp_path, "other-ca")
        both = files.client_ca.read_bytes() + other.certificate.read_bytes()
        files.client_ca.write_bytes(both)
        assert tls.get().client_ca == both

    def test_a_renewed_set_that_is_not_valid_yet_is_in_force_and_logged(
        self,
        files: TlsFiles,
        tls: ReloadingTls,
        authority: Authority,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        renewed = authority.server(start=NOW + DAY)
        files.certificate.write_bytes(renewed.certificate_pem)
        files.key.write_bytes(renewed.key_pem)
        assert tls.get().certificate == renewed.certificate_pem
        assert "a certificate is not valid now" in caplog.messages

    def test_a_wrong_set_at_the_start_is_refused(self, files: TlsFiles) -> None:
        files.key.write_bytes(b"half a key")
        with pytest.raises(ConfigInvalid, match="no private key in PEM"):
            ReloadingTls(files, lambda: NOW)

    @pytest.mark.parametrize("name", ["localhost", None])
    def test_the_next_handshake_uses_the_renewed_set(
        self, files: TlsFiles, tls: ReloadingTls, authority: Authority, name: str | None
    ) -> None:
        """A client that connects by address sends no server name."""
        context = make_reloading_ssl_context(tls)
        renewed = authority.server(end=NOW + 60 * DAY)
        assert served_certificate(context, authority, name) == files.certificate.read_text()
        files.certificate.write_bytes(renewed.certificate_pem)
        files.key.write_bytes(renewed.key_pem)
        assert served_certificate(context, authority, name) == renewed.certificate_pem.decode()


def write_pem(path: Path, data: bytes) -> None:
    """Write a private file."""
    path.touch(mode=0o600)
    path.write_bytes(data)


def served_certificate(server: ssl.SSLContext, authority: Authority, name: str | None) -> str:
    """Return the certificate, in PEM, that a client gets which names the server or does not."""
    client = ssl.create_default_context(cafile=authority.certificate)
    client.check_hostname = name is not None
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = client.wrap_bio(down, up, server_hostname=name)
    for end in (caller, server.wrap_bio(up, down, server_side=True), caller):
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
    der = caller.getpeercert(binary_form=True)
    assert der is not None
    return ssl.DER_cert_to_PEM_cert(der)
