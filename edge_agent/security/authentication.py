"""Authentication of a port's callers by address, API key or client certificate.

Both transports make `ClientCredentials` from their own values, call `Authenticator.decide`, raise
`Denied.to_error()`, and log the outcome.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from edge_agent.core.authorization import (
    LOCAL,
    Action,
    AuthResult,
    DenialReason,
    Denied,
    Listener,
    authorize,
    identify_caller,
)
from edge_agent.security.api_keys import ApiKeyStore
from edge_agent.security.client_certificates import CertificateRules, get_peer_certificate

_FORWARDED: Final = frozenset({"forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip"})


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """The credentials of one call.

    Attributes:
        peer_host: the caller's address; empty for a Unix socket.
        key: the API key; None if none was sent, empty if the header holds no key.
        certificate: the client certificate in PEM, verified by the TLS layer.
        is_forwarded: whether a proxy's header is present.
    """

    peer_host: str
    key: str | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    is_forwarded: bool = False


class LocalAuthenticator:
    """Authenticates callers of a socket that only this user and root can open, as `admin`."""

    def decide(self, _action: Action, _caller: ClientCredentials) -> AuthResult:
        """Return the principal of the agent's own user."""
        return LOCAL


class Authenticator:
    """Authenticates one port's callers. Thread-safe."""

    def __init__(
        self,
        name: str,
        host: str,
        *,
        tls: bool,
        keys: ApiKeyStore | None = None,
        certificates: CertificateRules | None = None,
    ) -> None:
        """Configure the authentication of a port.

        Args:
            name: the port's name in messages: `gRPC`.
            host: the address that it listens on.
            tls: whether the port uses TLS.
            keys: the API keys, if configured.
            certificates: the rules for client certificates, if configured.
        """
        self._keys = keys
        self._certificates = certificates
        # Decided once, because an emptied key file must not open the port.
        has_roles = keys is not None or certificates is not None
        self._listener = Listener(name, host, has_tls=tls, has_roles=has_roles)

    @property
    def listener(self) -> Listener:
        """The port, for `check_listeners` before the agent listens."""
        return self._listener

    def decide(self, action: Action, caller: ClientCredentials) -> AuthResult:
        """Return the caller if the action is authorized, else the denial."""
        return authorize(action, self.identify(caller))

    def identify(self, caller: ClientCredentials) -> AuthResult:
        """Return the caller, or the denial."""
        return identify_caller(
            self._listener,
            key=self._identify_key(caller.key),
            certificate=self._identify_certificate(caller.certificate),
            peer_host=caller.peer_host,
            forwarded=caller.is_forwarded,
        )

    def _identify_key(self, key: str | None) -> AuthResult | None:
        if key is None:
            return None
        if self._keys is None:
            return Denied(DenialReason.UNKNOWN_CREDENTIAL)
        return self._keys.identify(key)

    def _identify_certificate(self, pem: bytes | None) -> AuthResult | None:
        if pem is None or self._certificates is None:
            return None
        return self._certificates.identify(pem)


def read_grpc_credentials(
    peer: str,
    metadata: Iterable[tuple[str, str | bytes]],
    auth_context: Mapping[str, Iterable[bytes]],
) -> ClientCredentials:
    """Return the credentials in gRPC's `peer()`, `invocation_metadata()` and `auth_context()`."""
    headers = [(name.lower(), value) for name, value in metadata]
    return ClientCredentials(
        _grpc_peer_host(peer),
        _extract_key(value for name, value in headers if name == "authorization"),
        get_peer_certificate(auth_context),
        any(name in _FORWARDED for name, _ in headers),
    )


def read_http_credentials(
    peer_host: str, headers: Iterable[tuple[bytes, bytes]]
) -> ClientCredentials:
    """Return the credentials in ASGI's `client` and `headers`.

    uvicorn must run with `proxy_headers=False`; otherwise it replaces the peer's address by the
    one that a proxy's header claims.
    """
    named = [(name.lower().decode("latin-1"), value) for name, value in headers]
    return ClientCredentials(
        peer_host,
        _extract_key(value for name, value in named if name == "authorization"),
        None,
        any(name in _FORWARDED for name, _ in named),
    )


def _extract_key(values: Iterable[str | bytes]) -> str | None:
    """Return the API key in `Authorization`: Bearer (RFC 6750) or Basic's password (RFC 7617).

    With Basic, a browser prompts its user for the key; the user name is ignored.
    """
    headers = [v.decode("latin-1") if isinstance(v, bytes) else v for v in values]
    if not headers:
        return None
    if len(headers) > 1:
        return ""
    scheme, _, rest = headers[0].strip().partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(rest.strip(), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return ""
        return pair.partition(":")[2]
    return ""


def _grpc_peer_host(peer: str) -> str:
    # `ipv4:127.0.0.1:5000`, `ipv6:%5B::1%5D:5000` (or unquoted), `unix:`, `unix:/path`
    kind, _, rest = unquote(peer).partition(":")
    if kind == "unix":
        return ""
    host = rest.rpartition(":")[0]
    return host.removeprefix("[").removesuffix("]") or peer
