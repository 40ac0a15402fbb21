"""Protected connections: certificates made here, real handshakes, keys that stay private."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from hilum.client import ClientErrorCode, DetectError, Tls
from tests.support.agents.certificates import Authority, Issued
from tests.support.agents.scripted import BOTH, Agent, PatientClock, image_size_of, running

both = pytest.mark.parametrize("face", BOTH)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("site"), "site-ca")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "another-ca")


def credentials(
    authority: Authority, certificate: Issued, *, clients: bool = False
) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(certificate.key_pem, certificate.certificate_pem)],
        root_certificates=authority.certificate.read_bytes() if clients else None,
        require_client_auth=clients,
    )


@pytest.fixture
def protected(authority: Authority) -> Iterator[Agent]:
    with running(credentials=credentials(authority, authority.server())) as agent:
        yield agent


@pytest.fixture
def mutual(authority: Authority) -> Iterator[Agent]:
    with running(credentials=credentials(authority, authority.server(), clients=True)) as agent:
        yield agent


@both
def test_a_certificate_of_the_sites_authority_is_trusted(
    face: Any, protected: Agent, authority: Authority
) -> None:
    client = face(protected.address, tls=Tls(ca=authority.certificate))
    assert image_size_of(client.detect(b"x" * 6)) == 6
    assert [image_size_of(o) for _, o in client.detect_many([(1, b"x")])] == [1]
    protected.serving()
    assert client.ready(30)


@both
def test_a_strangers_certificate_is_not(face: Any, protected: Agent, stranger: Authority) -> None:
    clock = PatientClock()
    client = face(protected.address, tls=Tls(ca=stranger.certificate), clock=clock)
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
    names: list[x509.GeneralName] = [x509.DNSName("box-7.hospital.example")]
    certificate = authority.issue("box", "CN=box-7", names, ExtendedKeyUsageOID.SERVER_AUTH)
    with running(credentials=credentials(authority, certificate)) as agent:
        with pytest.raises(DetectError) as caught:
            face(agent.address, tls=Tls(ca=authority.certificate)).detect(b"x")
        assert caught.value.code == ClientErrorCode.TLS_FAILED
        named = Tls(ca=authority.certificate, server_name="box-7.hospital.example")
        assert image_size_of(face(agent.address, tls=named).detect(b"xx")) == 2


@both
def test_an_agent_that_asks_for_a_certificate_gets_it(
    face: Any, mutual: Agent, authority: Authority
) -> None:
    own = authority.client("CN=clinic")
    tls = Tls(ca=authority.certificate, certificate=own.certificate, key=own.key)
    assert image_size_of(face(mutual.address, tls=tls).detect(b"xxx")) == 3


@both
def test_no_certificate_or_a_strangers_is_turned_away(
    face: Any, mutual: Agent, authority: Authority, stranger: Authority
) -> None:
    strange = stranger.client("CN=clinic")
    for tls in (
        Tls(ca=authority.certificate),
        Tls(ca=authority.certificate, certificate=strange.certificate, key=strange.key),
    ):
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
        face(plain.address, tls=Tls(ca=authority.certificate)).detect(b"x")
    assert caught.value.code == ClientErrorCode.TLS_FAILED


@both
def test_the_api_key_travels_with_every_call(
    face: Any, protected: Agent, authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text("s3cret-from-file\n")
    tls = Tls(ca=authority.certificate)
    face(protected.address, tls=tls, api_key="s3cret").detect(b"x")
    client = face(protected.address, tls=tls, api_key_file=file)
    client.detect_many([(1, b"x")])
    client.model()
    assert [seen["authorization"] for seen in protected.metadata] == [
        "Bearer s3cret",
        "Bearer s3cret-from-file",
    ]
