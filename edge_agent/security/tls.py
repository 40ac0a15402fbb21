"""TLS of both transports: the server's certificate and key, and the clients' CA.

Files that no handshake can use are refused at the start, with the file's name. Dates are reported
and decide nothing: a box whose clock is wrong still serves (docs/decisions/0094-tls-dates.md).
Renewed files are used without a restart, once all of them fit each other. TLS 1.2 is the lowest
version of both transports (RFC 9325 section 3.1.1).
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
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
from edge_agent.system.config_files import read_config_file, read_stamp

_log = logging.getLogger(__name__)
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
    """Certificate, key and CA, which fit each other.

    Attributes:
        files: where they were read from.
        certificate, key, client_ca: their content, PEM.
        not_after: the earliest expiry among the certificates.
        date_problems: sentences about certificates that are not valid now.
    """

    files: TlsFiles
    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    not_after: datetime
    date_problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TlsStatus:
    """What is in force: when it expires, and why the files on disk are not (None if they are)."""

    not_after: datetime
    problem: str | None


class UvicornTls(TypedDict):
    """The keyword arguments of `uvicorn.Config` that enable TLS."""

    ssl_context_factory: Callable[[object, object], ssl.SSLContext]


def load_tls(files: TlsFiles, now: datetime) -> Tls:
    """Read and verify the files.

    Args:
        files: their paths.
        now: the time, with a time zone.

    Returns:
        The verified certificate, key and CA.

    Raises:
        ConfigInvalid: a file is missing, unreadable or not PEM, others can read the key, the key
            is not the certificate's, or the clients' CA is none.
    """
    certificate = read_config_file(files.certificate, "TLS certificate", is_private=False)
    key = read_config_file(files.key, "TLS key", is_private=True)
    client_ca = None
    if files.client_ca is not None:
        client_ca = read_config_file(files.client_ca, "clients' CA", is_private=False)

    chain = _parse_certificates(certificate, files.certificate, "TLS certificate")
    _check_key(chain[0], key, files)
    problems = [*_find_date_problems(chain, now, files.certificate, "TLS certificate")]
    authorities: list[x509.Certificate] = []
    if client_ca is not None and files.client_ca is not None:
        authorities = _parse_certificates(client_ca, files.client_ca, "clients' CA")
        _check_authorities(authorities, files.client_ca)
        problems += _find_date_problems(authorities, now, files.client_ca, "clients' CA")
    not_after = min(c.not_valid_after_utc for c in (*chain, *authorities))
    tls = Tls(files, certificate, key, client_ca, not_after, tuple(problems))
    make_ssl_context(tls)  # OpenSSL checks more, such as the minimum length of keys.
    return tls


class ReloadingTls:
    """The TLS files in force, loaded again when one of them changes. Thread-safe.

    Renewing replaces two or three files, one after the other. Until they fit each other, the
    previous set stays in force; the problem is logged once and given by `status`.
    """

    def __init__(self, files: TlsFiles, utc_now: Callable[[], datetime]) -> None:
        """Load the files for the first time.

        Args:
            files: their paths.
            utc_now: the clock for the certificates' dates, with a time zone.

        Raises:
            ConfigInvalid: see `load_tls`; at the start there is no previous set.
        """
        self._files = files
        self._utc_now = utc_now
        self._lock = threading.Lock()
        self._stamps = self._read_stamps()
        self._problem: str | None = None
        self._tls = self._load()

    def get(self) -> Tls:
        """Return the set in force; costs one `stat` a file if none has changed.

        Files that cannot be used are read each time, which takes about a millisecond.
        """
        with self._lock:
            stamps = self._read_stamps()
            if stamps != self._stamps:
                self._stamps = stamps
                self._reload()
            return self._tls

    @property
    def status(self) -> TlsStatus:
        """The state of the files."""
        tls = self.get()
        return TlsStatus(tls.not_after, self._problem)

    def _load(self) -> Tls:
        tls = load_tls(self._files, self._utc_now())
        for problem in tls.date_problems:
            _log.error("a certificate is not valid now", extra={"problem": problem})
        return tls

    def _reload(self) -> None:
        try:
            self._tls = self._load()
        except ConfigInvalid as error:
            if error.message != self._problem:
                _log.error(
                    "changed TLS files cannot be used; the previous ones stay in force",
                    extra={"problem": error.message},
                )
            self._problem = error.message
            # Tried again at the next handshake, because the cause may be of this process alone,
            # such as too many open files.
            self._stamps = ()
        else:
            self._problem = None
            not_after = self._tls.not_after.isoformat()
            _log.info("changed TLS files are in force", extra={"not_after": not_after})

    def _read_stamps(self) -> tuple[tuple[int, ...], ...]:
        files = self._files
        paths = (files.certificate, files.key, files.client_ca)
        return tuple(read_stamp(path) for path in paths if path is not None)


def make_grpc_credentials(tls: ReloadingTls) -> grpc.ServerCredentials:
    """Return the credentials of a gRPC port; each handshake uses the set in force.

    With a clients' CA, every client must send a certificate. gRPC for Python has no optional
    client certificates: with client authentication off it does not request one.
    """
    first = tls.get()
    used = first

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """Return the set in force, or None if gRPC has it already; called by gRPC's threads."""
        nonlocal used
        current = tls.get()
        if current is used:
            return None
        used = current
        return _make_grpc_configuration(current)

    return grpc.dynamic_ssl_server_credentials(
        _make_grpc_configuration(first),
        fetch,  # type: ignore[arg-type]  # gRPC's stubs do not know that None is allowed
        require_client_authentication=first.client_ca is not None,
    )


def _make_grpc_configuration(tls: Tls) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(tls.key, tls.certificate)], root_certificates=tls.client_ca
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
        # The bytes that were verified, even if the files have changed since.
        with _as_file(tls.certificate) as certificate, _as_file(tls.key) as key:
            context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError) as error:
        raise ConfigInvalid(
            f"The TLS certificate {tls.files.certificate} cannot be used: {error.strerror}.",
            hint="Make a key of at least 2048 bits (RSA) or 256 bits (EC), and a certificate "
            "signed with SHA-256.",
        ) from None
    return context


@contextlib.contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """Yield the path of a file in memory, because the `ssl` module loads keys from paths alone."""
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def make_reloading_ssl_context(tls: ReloadingTls) -> ssl.SSLContext:
    """Return a server's context whose handshakes use the set in force."""
    used = tls.get()
    newest = context = make_ssl_context(used)

    def use_newest(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Give a connection the newest context; called after its client's first message."""
        nonlocal used, newest
        current = tls.get()
        if current is not used:
            with contextlib.suppress(ConfigInvalid):  # The next handshake tries again.
                newest, used = make_ssl_context(current), current
        connection.context = newest

    context.sni_callback = use_newest
    return context


def make_uvicorn_tls(tls: ReloadingTls) -> UvicornTls:
    """Return arguments for `uvicorn.Config`."""
    context = make_reloading_ssl_context(tls)
    return UvicornTls(ssl_context_factory=lambda _config, _default: context)


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


def _find_date_problems(
    certificates: Iterable[x509.Certificate], now: datetime, path: Path, description: str
) -> Iterator[str]:
    """Yield a sentence for each certificate that is not valid now."""
    for certificate in certificates:
        name = certificate.subject.rfc4514_string()
        if now < certificate.not_valid_before_utc:
            since = certificate.not_valid_before_utc.isoformat()
            yield (
                f"The {description} {path} ({name}) is not valid before {since}. Check this box's "
                f"clock; it says {now.isoformat(timespec='seconds')}."
            )
        if now >= certificate.not_valid_after_utc:
            until = certificate.not_valid_after_utc.isoformat()
            yield (
                f"The {description} {path} ({name}) has expired on {until}. Renew it; if it should "
                "still be valid, check this box's clock."
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
