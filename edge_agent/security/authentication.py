"""Authenticates the callers of one port by address, API key or client certificate.

Both transports use it alike: they make `ClientCredentials` from their plain values, call `decide`,
raise `Denied.to_error()`, and log the outcome.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from edge_agent.core.authorization import (
    Action,
    AuthResult,
    DenialReason,
    Denied,
    Listener,
    authorize,
    identify_caller,
)
from edge_agent.security.api_keys import ApiKeyStore
from edge_agent.security.client_certificates import CertificateRules, pem_of

_FORWARDED: Final = frozenset({"forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip"})


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """What one call shows about who sent it.

    `key` is the API key, None if none was shown and empty if what was shown is no key at all.
    `peer_host` is empty for a Unix socket. `certificate` is PEM, verified by the TLS layer.
    """

    peer_host: str
    key: str | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    forwarded: bool = False


class Authenticator:
    """Knows one port's callers. Safe to ask from any thread."""

    def __init__(
        self,
        name: str,
        host: str,
        *,
        tls: bool,
        keys: ApiKeyStore | None = None,
        certificates: CertificateRules | None = None,
    ) -> None:
        """Guard a port.

        Args:
            name: the port's name in messages: `gRPC`.
            host: the address that it listens on.
            tls: whether it speaks TLS.
            keys: the API keys, if any are set up.
            certificates: the rules for client certificates, if the port asks for any.
        """
        self._keys = keys
        self._certificates = certificates
        # Decided once: an emptied key file must not open the port.
        configured = keys is not None or certificates is not None
        self._listener = Listener(name, host, has_tls=tls, has_roles=configured)

    @property
    def listener(self) -> Listener:
        """The port, for `check_listeners` before anything listens."""
        return self._listener

    def problems(self) -> list[str]:
        """What is wrong with the files behind the gate, in words for the operator."""
        sources = (self._keys, self._certificates)
        return [it.problem for it in sources if it is not None and it.problem is not None]

    def decide(self, action: Action, caller: ClientCredentials) -> AuthResult:
        """Say who is calling, if they may do this; else why not."""
        return authorize(action, self.identify(caller))

    def identify(self, caller: ClientCredentials) -> AuthResult:
        """Say who is calling."""
        return identify_caller(
            self._listener,
            key=self._by_key(caller.key),
            certificate=self._by_certificate(caller.certificate),
            peer_host=caller.peer_host,
            forwarded=caller.forwarded,
        )

    def _by_key(self, key: str | None) -> AuthResult | None:
        if key is None:
            return None
        if self._keys is None:
            return Denied(DenialReason.UNKNOWN_CREDENTIAL)
        return self._keys.identify(key)

    def _by_certificate(self, pem: bytes | None) -> AuthResult | None:
        if pem is None or self._certificates is None:
            return None
        return self._certificates.identify(pem)


def grpc_caller(
    peer: str,
    metadata: Iterable[tuple[str, str | bytes]],
    auth_context: Mapping[str, Iterable[bytes]],
) -> ClientCredentials:
    """The caller as gRPC's `peer()`, `invocation_metadata()` and `auth_context()` show it."""
    headers = [(name.lower(), value) for name, value in metadata]
    return ClientCredentials(
        _grpc_peer_host(peer),
        _key_of(value for name, value in headers if name == "authorization"),
        pem_of(auth_context),
        any(name in _FORWARDED for name, _ in headers),
    )


def http_caller(peer_host: str, headers: Iterable[tuple[bytes, bytes]]) -> ClientCredentials:
    """The caller as ASGI's `client` and `headers` show it.

    uvicorn must run with `proxy_headers=False`, or it puts a proxy's word for the peer's address.
    """
    named = [(name.lower().decode("latin-1"), value) for name, value in headers]
    return ClientCredentials(
        peer_host,
        _key_of(value for name, value in named if name == "authorization"),
        None,
        any(name in _FORWARDED for name, _ in named),
    )


def _key_of(values: Iterable[str | bytes]) -> str | None:
    """The API key in `Authorization`: as Bearer (RFC 6750) or as Basic's password (RFC 7617).

    Basic lets a browser ask its user for the key by itself; the user name is not looked at.
    """
    shown = [it.decode("latin-1") if isinstance(it, bytes) else it for it in values]
    if not shown:
        return None
    if len(shown) > 1:
        return ""
    scheme, _, rest = shown[0].strip().partition(" ")
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
