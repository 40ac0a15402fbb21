"""The server's certificate, key and clients' CA: read by file, checked, handed to both faces.

Everything that a handshake would trip over later is told at the start, with the file's name.
TLS 1.2 is the least that either face speaks (RFC 9325 section 3.1.1).
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, TypedDict

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from edge_agent.errors import ConfigInvalid
from edge_agent.system.config_files import read_config_file

# Forward secrecy and authenticated encryption only (RFC 9325 section 4.2); TLS 1.3 has its own.
_TLS12_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where things lie, all PEM. `certificate` holds the server's own first, then its chain.

    With `client_ca`, gRPC clients must show a certificate that one of these CAs has signed.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificate, key and CA, read and found to fit. `not_after` is when the first one ends."""

    files: TlsFiles
    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    not_after: datetime


class UvicornTls(TypedDict):
    """The keyword arguments of `uvicorn.Config` that make it speak TLS."""

    ssl_certfile: Path
    ssl_keyfile: Path
    ssl_ciphers: str
    ssl_version: int


def load_tls(files: TlsFiles, now: datetime) -> Tls:
    """Read and check everything.

    Args:
        files: where it lies.
        now: the time, with its zone.

    Raises:
        ConfigInvalid: a file is missing or unreadable, others can read the key, something is not
            PEM, the key is not the certificate's, or a certificate's time has not come or is over.
    """
    certificate = read_config_file(files.certificate, "TLS certificate", private=False)
    key = read_config_file(files.key, "TLS key", private=True)
    client_ca = None
    if files.client_ca is not None:
        client_ca = read_config_file(files.client_ca, "clients' CA", private=False)

    chain = _certificates(certificate, files.certificate, "TLS certificate")
    _check_key(chain[0], key, files)
    _check_times(chain, now, files.certificate, "TLS certificate")
    authorities: list[x509.Certificate] = []
    if client_ca is not None and files.client_ca is not None:
        authorities = _certificates(client_ca, files.client_ca, "clients' CA")
        _check_times(authorities, now, files.client_ca, "clients' CA")
        _check_authorities(authorities, files.client_ca)
    not_after = min(it.not_valid_after_utc for it in (*chain, *authorities))
    tls = Tls(files, certificate, key, client_ca, not_after)
    ssl_context(tls)  # OpenSSL has rules of its own, such as the least length of keys.
    return tls


def grpc_credentials(tls: Tls) -> grpc.ServerCredentials:
    """Credentials for a gRPC port; with a clients' CA, every client must show a certificate.

    gRPC for Python knows no 'may show': with `require_client_auth` false it does not even ask.
    """
    return grpc.ssl_server_credentials(
        [(tls.key, tls.certificate)],
        root_certificates=tls.client_ca,
        require_client_auth=tls.client_ca is not None,
    )


def ssl_context(tls: Tls) -> ssl.SSLContext:
    """A server's context for anything that is built on `ssl`.

    Raises:
        ConfigInvalid: OpenSSL does not take the certificate or key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS12_CIPHERS)
    try:
        context.load_cert_chain(tls.files.certificate, tls.files.key, password="")
    except (ssl.SSLError, OSError) as error:
        raise ConfigInvalid(
            f"The TLS certificate {tls.files.certificate} cannot be used: {error.strerror}.",
            hint="Make a key of at least 2048 bits (RSA) or 256 bits (EC), and a certificate "
            "signed with SHA-256.",
        ) from None
    return context


def uvicorn_tls(tls: Tls) -> UvicornTls:
    """What to pass to `uvicorn.Config`; its own context then equals `ssl_context`'s."""
    # PROTOCOL_TLS_SERVER has TLS 1.2 as its minimum since Python 3.10.
    return UvicornTls(
        ssl_certfile=tls.files.certificate,
        ssl_keyfile=tls.files.key,
        ssl_ciphers=_TLS12_CIPHERS,
        ssl_version=ssl.PROTOCOL_TLS_SERVER,
    )


def _certificates(pem: bytes, path: Path, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigInvalid(
            f"The {what} {path} holds no certificate in PEM.",
            hint="It begins with -----BEGIN CERTIFICATE-----; DER is turned into it by "
            "`openssl x509 -inform DER`.",
        ) from None


def _check_key(certificate: x509.Certificate, pem: bytes, files: TlsFiles) -> None:
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise ConfigInvalid(
            f"The TLS key {files.key} is protected by a passphrase, and nobody is there to type "
            "it when the agent starts.",
            hint="Take the passphrase off (`openssl pkey`) and keep the file at mode 0600.",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigInvalid(f"The TLS key {files.key} holds no private key in PEM.") from None
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise ConfigInvalid(
            f"The TLS key {files.key} does not belong to the certificate {files.certificate}.",
            hint="The server's own certificate stands first in its file, its chain after it.",
        )


def _check_times(
    certificates: Iterable[x509.Certificate], now: datetime, path: Path, what: str
) -> None:
    for certificate in certificates:
        name = certificate.subject.rfc4514_string()
        if now < certificate.not_valid_before_utc:
            since = certificate.not_valid_before_utc.isoformat()
            raise ConfigInvalid(
                f"The {what} {path} ({name}) is not valid before {since}.",
                hint=f"Check this box's clock; it says {now.isoformat(timespec='seconds')}.",
            )
        if now >= certificate.not_valid_after_utc:
            until = certificate.not_valid_after_utc.isoformat()
            raise ConfigInvalid(
                f"The {what} {path} ({name}) has expired on {until}.",
                hint="Renew it; if it should be good still, check this box's clock.",
            )


def _check_authorities(certificates: Iterable[x509.Certificate], path: Path) -> None:
    for certificate in certificates:
        try:
            limits = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
            is_authority = limits.value.ca
        except x509.ExtensionNotFound:
            is_authority = False
        if not is_authority:
            raise ConfigInvalid(
                f"The clients' CA {path} holds a certificate that may not sign others "
                f"({certificate.subject.rfc4514_string()}).",
                hint="Give the certificate of the CA that signs the clients' certificates.",
            )
