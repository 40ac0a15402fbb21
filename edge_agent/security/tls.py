"""TLS of both transports: the server's certificate and key, and the clients' CA.

Everything that would make a handshake fail later is checked at the start, and reported with the
file's name. TLS 1.2 is the lowest version of both transports (RFC 9325 section 3.1.1).
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
    """Paths of PEM files. `certificate` holds the server's own first, then its chain.

    With `client_ca`, gRPC clients must send a certificate that one of these CAs has signed.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificate, key and CA, verified. `not_after` is the earliest expiry among them."""

    files: TlsFiles
    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    not_after: datetime


class UvicornTls(TypedDict):
    """The keyword arguments of `uvicorn.Config` that enable TLS."""

    ssl_certfile: Path
    ssl_keyfile: Path
    ssl_ciphers: str
    ssl_version: int


def load_tls(files: TlsFiles, now: datetime) -> Tls:
    """Read and verify the files.

    Args:
        files: their paths.
        now: the time, with a time zone.

    Returns:
        The verified certificate, key and CA.

    Raises:
        ConfigInvalid: a file is missing, unreadable or not PEM, others can read the key, the key
            is not the certificate's, or a certificate is not yet valid or has expired.
    """
    certificate = read_config_file(files.certificate, "TLS certificate", is_private=False)
    key = read_config_file(files.key, "TLS key", is_private=True)
    client_ca = None
    if files.client_ca is not None:
        client_ca = read_config_file(files.client_ca, "clients' CA", is_private=False)

    chain = _parse_certificates(certificate, files.certificate, "TLS certificate")
    _check_key(chain[0], key, files)
    _check_times(chain, now, files.certificate, "TLS certificate")
    authorities: list[x509.Certificate] = []
    if client_ca is not None and files.client_ca is not None:
        authorities = _parse_certificates(client_ca, files.client_ca, "clients' CA")
        _check_times(authorities, now, files.client_ca, "clients' CA")
        _check_authorities(authorities, files.client_ca)
    not_after = min(c.not_valid_after_utc for c in (*chain, *authorities))
    tls = Tls(files, certificate, key, client_ca, not_after)
    make_ssl_context(tls)  # OpenSSL checks more, such as the minimum length of keys.
    return tls


def make_grpc_credentials(tls: Tls) -> grpc.ServerCredentials:
    """Return the credentials of a gRPC port.

    With a clients' CA, every client must send a certificate. gRPC for Python has no optional
    client certificates: with `require_client_auth` false it does not request one.
    """
    return grpc.ssl_server_credentials(
        [(tls.key, tls.certificate)],
        root_certificates=tls.client_ca,
        require_client_auth=tls.client_ca is not None,
    )


def make_ssl_context(tls: Tls) -> ssl.SSLContext:
    """Return a server's context for the `ssl` module.

    Raises:
        ConfigInvalid: OpenSSL rejects the certificate or key.
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


def make_uvicorn_tls(tls: Tls) -> UvicornTls:
    """Return arguments for `uvicorn.Config`; its context then equals `make_ssl_context`'s."""
    # PROTOCOL_TLS_SERVER has TLS 1.2 as its minimum since Python 3.10.
    return UvicornTls(
        ssl_certfile=tls.files.certificate,
        ssl_keyfile=tls.files.key,
        ssl_ciphers=_TLS12_CIPHERS,
        ssl_version=ssl.PROTOCOL_TLS_SERVER,
    )


def _parse_certificates(pem: bytes, path: Path, description: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigInvalid(
            f"The {description} {path} holds no certificate in PEM.",
            hint="It begins with -----BEGIN CERTIFICATE-----; convert DER with "
            "`openssl x509 -inform DER`.",
        ) from None


def _check_key(certificate: x509.Certificate, pem: bytes, files: TlsFiles) -> None:
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise ConfigInvalid(
            f"The TLS key {files.key} is protected by a passphrase, which the agent cannot ask "
            "for when it starts.",
            hint="Remove the passphrase (`openssl pkey`) and keep the file at mode 0600.",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigInvalid(f"The TLS key {files.key} holds no private key in PEM.") from None
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise ConfigInvalid(
            f"The TLS key {files.key} does not belong to the certificate {files.certificate}.",
            hint="The server's own certificate comes first in its file, its chain after it.",
        )


def _check_times(
    certificates: Iterable[x509.Certificate], now: datetime, path: Path, description: str
) -> None:
    for certificate in certificates:
        name = certificate.subject.rfc4514_string()
        if now < certificate.not_valid_before_utc:
            since = certificate.not_valid_before_utc.isoformat()
            raise ConfigInvalid(
                f"The {description} {path} ({name}) is not valid before {since}.",
                hint=f"Check this box's clock; it says {now.isoformat(timespec='seconds')}.",
            )
        if now >= certificate.not_valid_after_utc:
            until = certificate.not_valid_after_utc.isoformat()
            raise ConfigInvalid(
                f"The {description} {path} ({name}) has expired on {until}.",
                hint="Renew it; if it should still be valid, check this box's clock.",
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
