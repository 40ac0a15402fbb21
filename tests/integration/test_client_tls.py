"""Protected connections: certificates made here, real handshakes, keys that stay private."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hilum.client import ClientErrorCode, DetectError, Tls
from tests.integration.scripted_agent import BOTH, Agent, PatientClock, running, size_seen

both = pytest.mark.parametrize("face", BOTH)


@dataclass(frozen=True)
class Authority:
    """Signs certificates into `folder`; `NAME.pem` and `NAME.key`."""

    folder: Path
    name: str

    def __post_init__(self) -> None:
        self.folder.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        self._write("ca", _certificate(self.name, key, self.name, key, ca=True), key)

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def issue(self, name: str, *names: x509.GeneralName) -> tuple[Path, Path]:
        ca_key = serialization.load_pem_private_key(
            (self.folder / "ca.key").read_bytes(), password=None
        )
        assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        return self._write(name, _certificate(name, key, self.name, ca_key, names=names), key)

    def _write(
        self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> tuple[Path, Path]:
        pem, private = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return pem, private


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool = False,
    names: tuple[x509.GeneralName, ...] = (),
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("site") / "ca", "Site CA")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger") / "ca", "Another CA")


def server_credentials(
    authority: Authority, *names: x509.GeneralName, clients: bool = False
) -> grpc.ServerCredentials:
    certificate, key = authority.issue("agent", *names)
    return grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())],
        root_certificates=authority.ca.read_bytes() if clients else None,
        require_client_auth=clients,
    )


@pytest.fixture
def protected(authority: Authority) -> Iterator[Agent]:
    with running(credentials=server_credentials(authority, LOOPBACK)) as agent:
        yield agent


@pytest.fixture
def mutual(authority: Authority) -> Iterator[Agent]:
    with running(credentials=server_credentials(authority, LOOPBACK, clients=True)) as agent:
        yield agent


@both
def test_a_certificate_of_the_sites_authority_is_trusted(
    face: Any, protected: Agent, authority: Authority
) -> None:
    client = face(protected.address, tls=Tls(ca=authority.ca))
    assert size_seen(client.detect(b"x" * 6)) == 6
    assert [size_seen(o) for _, o in client.detect_many([(1, b"x")])] == [1]
    protected.serving()
    assert client.ready(30)


@both
def test_a_strangers_certificate_is_not(face: Any, protected: Agent, stranger: Authority) -> None:
    clock = PatientClock()
    client = face(protected.address, tls=Tls(ca=stranger.ca), clock=clock)
    for call in (
        lambda: client.detect(b"x"),
        lambda: client.detect_many([(1, b"x")]),
        lambda: client.ready(30),
    ):
        with pytest.raises(DetectError) as caught:
            call()
        assert caught.value.code == ClientErrorCode.TLS_FAILED
        assert not caught.value.retryable
    assert not clock.waits
    assert not protected.requests


@both
def test_the_public_authorities_do_not_vouch_for_a_sites_own(face: Any, protected: Agent) -> None:
    with pytest.raises(DetectError) as caught:
        face(protected.address, tls=Tls()).detect(b"x")
    assert caught.value.code == ClientErrorCode.TLS_FAILED


@both
def test_a_certificate_for_another_name_needs_that_name(face: Any, authority: Authority) -> None:
    credentials = server_credentials(authority, x509.DNSName("box-7.hospital.example"))
    with running(credentials=credentials) as agent:
        with pytest.raises(DetectError) as caught:
            face(agent.address, tls=Tls(ca=authority.ca)).detect(b"x")
        assert caught.value.code == ClientErrorCode.TLS_FAILED
        named = Tls(ca=authority.ca, server_name="box-7.hospital.example")
        assert size_seen(face(agent.address, tls=named).detect(b"xx")) == 2


@both
def test_an_agent_that_asks_for_a_certificate_gets_it(
    face: Any, mutual: Agent, authority: Authority
) -> None:
    certificate, key = authority.issue("clinic")
    tls = Tls(ca=authority.ca, certificate=certificate, key=key)
    assert size_seen(face(mutual.address, tls=tls).detect(b"xxx")) == 3


@both
def test_no_certificate_or_a_strangers_is_turned_away(
    face: Any, mutual: Agent, authority: Authority, stranger: Authority
) -> None:
    certificate, key = stranger.issue("clinic")
    for tls in (Tls(ca=authority.ca), Tls(ca=authority.ca, certificate=certificate, key=key)):
        with pytest.raises(DetectError) as caught:
            face(mutual.address, tls=tls, clock=PatientClock()).detect(b"x")
        # TLS 1.3 tells the client only after its handshake is done: at times the server's alert
        # is still read, at times only that the connection is gone.
        assert caught.value.code in {ClientErrorCode.TLS_FAILED, ClientErrorCode.UNREACHABLE}
        assert "certificate" in caught.value.hint
    assert not mutual.requests


@both
def test_plain_text_and_tls_do_not_mix(face: Any, protected: Agent, authority: Authority) -> None:
    with pytest.raises(DetectError) as caught:
        face(protected.address, clock=PatientClock()).detect(b"x")
    assert caught.value.code == ClientErrorCode.UNREACHABLE
    assert "tls=" in caught.value.hint
    with running() as plain, pytest.raises(DetectError) as caught:
        face(plain.address, tls=Tls(ca=authority.ca)).detect(b"x")
    assert caught.value.code == ClientErrorCode.TLS_FAILED


@both
def test_the_api_key_travels_with_every_call(
    face: Any, protected: Agent, authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text("s3cret-from-file\n")
    tls = Tls(ca=authority.ca)
    face(protected.address, tls=tls, api_key="s3cret").detect(b"x")
    client = face(protected.address, tls=tls, api_key_file=file)
    client.detect_many([(1, b"x")])
    client.model()
    assert [seen["authorization"] for seen in protected.metadata] == [
        "Bearer s3cret",
        "Bearer s3cret-from-file",
    ]
