import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.errors import ConfigInvalid
from edge_agent.security.tls import Tls, TlsFiles, load_tls, make_ssl_context
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
def test_certificates_that_are_not_valid_now_are_refused(
    server: Issued, after: timedelta, text: str
) -> None:
    assert text in refused(server, after=after)
    load(server, after=29 * DAY)


def test_an_expired_ca_is_refused(authority: Authority) -> None:
    lasting = authority.server(end=NOW + 1000 * DAY)
    assert "clients' CA" in refused(lasting, authority.certificate, after=500 * DAY)
    load(lasting, after=500 * DAY)


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
