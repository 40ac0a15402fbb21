"""Connections with TLS: test certificates, real handshakes, client certificates and API keys."""

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
from tests.support.agents.scripted import CLIENT_TYPES, Agent, PatientClock, image_size_of, running

each_client_type = pytest.mark.parametrize("client_type", CLIENT_TYPES)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("site"), "site-ca")


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other_authority"), "another-ca")


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


@each_client_type
def test_a_certificate_of_the_sites_authority_is_trusted(
    client_type: Any, protected: Agent, authority: Authority
) -> None:
    client = client_type(protected.address, tls=Tls(ca=authority.certificate))
    assert image_size_of(client.detect(b"x" * 6)) == 6
    assert [image_size_of(o) for _, o in client.detect_many([(1, b"x")])] == [1]
    protected.serving()
    assert client.ready(30)


@each_client_type
def test_a_certificate_of_another_authority_is_not_trusted(
    client_type: Any, protected: Agent, other_authority: Authority
) -> None:
    clock = PatientClock()
    client = client_type(protected.address, tls=Tls(ca=other_authority.certificate), clock=clock)
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


@each_client_type
def test_a_sites_own_certificate_is_not_trusted_by_the_public_authorities(
    client_type: Any, protected: Agent
) -> None:
    with pytest.raises(DetectError) as caught:
        client_type(protected.address, tls=Tls()).detect(b"x")
    assert caught.value.code == ClientErrorCode.TLS_FAILED


@each_client_type
def test_a_certificate_for_another_name_needs_that_name(
    client_type: Any, authority: Authority
) -> None:
    names: list[x509.GeneralName] = [x509.DNSName("box-7.hospital.example")]
    certificate = authority.issue("box", "CN=box-7", names, ExtendedKeyUsageOID.SERVER_AUTH)
    with running(credentials=credentials(authority, certificate)) as agent:
        with pytest.raises(DetectError) as caught:
            client_type(agent.address, tls=Tls(ca=authority.certificate)).detect(b"x")
        assert caught.value.code == ClientErrorCode.TLS_FAILED
        named = Tls(ca=authority.certificate, server_name="box-7.hospital.example")
        assert image_size_of(client_type(agent.address, tls=named).detect(b"xx")) == 2


@each_client_type
def test_a_client_certificate_is_sent_to_an_agent_that_requests_it(
    client_type: Any, mutual: Agent, authority: Authority
) -> None:
    own = authority.client("CN=clinic")
    tls = Tls(ca=authority.certificate, certificate=own.certificate, key=own.key)
    assert image_size_of(client_type(mutual.address, tls=tls).detect(b"xxx")) == 3


@each_client_type
def test_a_client_without_a_certificate_of_the_site_is_refused(
    client_type: Any, mutual: Agent, authority: Authority, other_authority: Authority
) -> None:
    foreign = other_authority.client("CN=clinic")
    for tls in (
        Tls(ca=authority.certificate),
        Tls(ca=authority.certificate, certificate=foreign.certificate, key=foreign.key),
    ):
        with pytest.raises(DetectError) as caught:
            client_type(mutual.address, tls=tls, clock=PatientClock()).detect(b"x")
        # In TLS 1.3 the client's handshake ends before the server's refusal: the client reads
        # either the server's alert or only the end of the connection.
        assert caught.value.code in {ClientErrorCode.TLS_FAILED, ClientErrorCode.UNREACHABLE}
        assert "certificate" in caught.value.hint
    assert not mutual.requests


@each_client_type
def test_plain_text_to_tls_and_tls_to_plain_text_are_errors(
    client_type: Any, protected: Agent, authority: Authority
) -> None:
    with pytest.raises(DetectError) as caught:
        client_type(protected.address, clock=PatientClock()).detect(b"x")
    assert caught.value.code == ClientErrorCode.UNREACHABLE
    assert "tls=" in caught.value.hint
    with running() as plain, pytest.raises(DetectError) as caught:
        client_type(plain.address, tls=Tls(ca=authority.certificate)).detect(b"x")
    assert caught.value.code == ClientErrorCode.TLS_FAILED


@each_client_type
def test_the_api_key_is_sent_with_every_call(
    client_type: Any, protected: Agent, authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text("s3cret-from-file\n")
    tls = Tls(ca=authority.certificate)
    client_type(protected.address, tls=tls, api_key="s3cret").detect(b"x")
    client = client_type(protected.address, tls=tls, api_key_file=file)
    client.detect_many([(1, b"x")])
    client.model()
    assert [metadata["authorization"] for metadata in protected.metadata] == [
        "Bearer s3cret",
        "Bearer s3cret-from-file",
    ]
