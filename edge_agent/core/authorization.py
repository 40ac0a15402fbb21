"""Authorization: roles, the identity of a caller, and the listeners that need no credential.

Callers are identified by API key or client certificate and have a role. A caller without a
credential is accepted only on loopback, and only where no credentials are set up.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from edge_agent.errors import CallerError, ConfigInvalid, Forbidden, Unauthenticated


class Role(StrEnum):
    """A caller's role. Each role includes all permissions of the ones before it."""

    VIEWER = "viewer"
    CLINIC = "clinic"
    ADMIN = "admin"


class Action(StrEnum):
    """A requested action. A transport maps everything that it does not know to `ADMINISTER`."""

    HEALTH = "health"
    MODEL = "model"
    METRICS = "metrics"
    PAGE = "page"
    DETECT = "detect"
    ADMINISTER = "administer"


_VIEWER: Final = frozenset({Action.HEALTH, Action.MODEL, Action.METRICS, Action.PAGE})
_CLINIC: Final = _VIEWER | {Action.DETECT}
GRANTED: Final[Mapping[Role, frozenset[Action]]] = MappingProxyType(
    {Role.VIEWER: _VIEWER, Role.CLINIC: _CLINIC, Role.ADMIN: frozenset(Action)}
)


class DenialReason(StrEnum):
    """The reason for a denial, as the audit log and the metrics record it."""

    NO_CREDENTIAL = "no_credential"
    UNKNOWN_CREDENTIAL = "unknown_credential"
    EXPIRED_CREDENTIAL = "expired_credential"
    FORWARDED = "forwarded"
    ROLE_TOO_LOW = "role_too_low"
    WRONG_HOST = "wrong_host"
    WRONG_ORIGIN = "wrong_origin"


@dataclass(frozen=True, slots=True)
class Principal:
    """A known caller. `actor` is its name in the audit log: `key:<id>`, `cert:<name>`, ..."""

    actor: str
    role: Role


@dataclass(frozen=True, slots=True)
class Denied:
    """A denial. `actor` is as much as is certain about the caller."""

    reason: DenialReason
    actor: str = "unknown"
    detail: str = ""

    def to_error(self) -> CallerError:
        """Return the error for the caller. It does not reveal which credentials exist."""
        message, hint = _DENIAL_MESSAGES[self.reason]
        kind = Forbidden if self.reason in _FORBIDDEN else Unauthenticated
        return kind(f"{message}{self.detail and f' ({self.detail})'}.", hint=hint)


_FORBIDDEN: Final = frozenset(
    {DenialReason.ROLE_TOO_LOW, DenialReason.WRONG_HOST, DenialReason.WRONG_ORIGIN}
)
_DENIAL_MESSAGES: Final[Mapping[DenialReason, tuple[str, str | None]]] = MappingProxyType(
    {
        DenialReason.NO_CREDENTIAL: ("This needs a credential and none was sent", None),
        DenialReason.UNKNOWN_CREDENTIAL: ("The agent does not know the credential", None),
        DenialReason.EXPIRED_CREDENTIAL: (
            "The credential has expired",
            "Ask the operator of this box for a new one.",
        ),
        DenialReason.FORWARDED: (
            "The request came through a proxy, and only this box's own callers need no credential",
            "The operator of this box must set up API keys before it can be reached by a proxy.",
        ),
        DenialReason.ROLE_TOO_LOW: ("The caller's role does not allow this", None),
        DenialReason.WRONG_HOST: (
            "The agent does not go by the name that the request was sent to",
            "Use the name in the agent's settings, or add this one to the page's names there.",
        ),
        DenialReason.WRONG_ORIGIN: (
            "Another site's page sent this request",
            "Open the agent's own page, or add the other page's origin to the settings.",
        ),
    }
)

AuthResult = Principal | Denied
"""The result of checking a credential: the caller, or the denial."""

# Any program on the box can connect over loopback, so such a caller is not the box's operator.
LOOPBACK: Final = Principal("loopback", Role.CLINIC)

LOCAL: Final = Principal("local", Role.ADMIN)
"""A program of the agent's own user or of root, which the socket's permissions let in."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A port on which the agent listens.

    Attributes:
        name: its name in messages.
        host: the address to listen on.
        has_tls: the port is encrypted.
        has_roles: keys or certificates are set up that give callers a role.
    """

    name: str
    host: str
    has_tls: bool = False
    has_roles: bool = False

    @property
    def is_open(self) -> bool:
        """True if callers on this box need no credential."""
        return not self.has_roles and is_loopback(self.host)


def is_permitted(role: Role, action: Action) -> bool:
    """Return whether the role allows the action."""
    return action in GRANTED[role]


def identify_caller(
    listener: Listener,
    *,
    key: AuthResult | None,
    certificate: AuthResult | None,
    peer_host: str,
    forwarded: bool = False,
) -> AuthResult:
    """Identify the caller by its credentials.

    A key that is sent must be valid: a certificate does not replace a wrong key. Without a key the
    certificate counts, because proxies and gateways may have certificates of their own.

    Args:
        listener: the port that received the call.
        key: the result for the API key; None if none was sent.
        certificate: the result for the client certificate; None if none was sent.
        peer_host: the caller's address, without the port; empty for a Unix socket.
        forwarded: headers show that a proxy forwarded the call.

    Returns:
        The caller, or the denial.
    """
    result = key if key is not None else certificate
    if result is not None:
        return result
    if not listener.is_open or not (peer_host == "" or is_loopback(peer_host)):
        return Denied(DenialReason.NO_CREDENTIAL)
    return Denied(DenialReason.FORWARDED) if forwarded else LOOPBACK


def authorize(action: Action, caller: AuthResult) -> AuthResult:
    """Return the caller if its role allows the action, and a denial otherwise."""
    if isinstance(caller, Denied) or is_permitted(caller.role, action):
        return caller
    return Denied(DenialReason.ROLE_TOO_LOW, caller.actor, f"{caller.role} may not: {action}")


def is_loopback(host: str) -> bool:
    """Return whether an address is reachable from this box only.

    Addresses are IPv4, IPv6 with or without brackets, or `localhost`. Other names and wildcards are
    not loopback, whatever the names resolve to.
    """
    bare = host.removeprefix("[").removesuffix("]").lower()
    if bare == "localhost":
        return True
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def check_listeners(listeners: Iterable[Listener]) -> None:
    """Refuse listeners that other machines could read or use without a credential.

    Raises:
        ConfigInvalid: a listener beyond loopback lacks TLS, roles or both; all such are named.
    """
    problems = [
        f"{listener.name} would listen on {listener.host or 'every address'}, which other machines "
        f"can reach, {' and '.join(_list_gaps(listener))}"
        for listener in listeners
        if not is_loopback(listener.host) and _list_gaps(listener)
    ]
    if problems:
        raise ConfigInvalid(
            f"Refusing to start open: {'; '.join(problems)}.",
            hint="Listen on 127.0.0.1, or set the certificate and key files and add API keys "
            "or client certificates with a role.",
        )


def _list_gaps(listener: Listener) -> list[str]:
    """Return what the listener lacks, in words."""
    return [
        gap
        for is_present, gap in (
            (listener.has_tls, "in plain text (radiographs and keys could be read on the way)"),
            (listener.has_roles, "with no roles (every caller could use it)"),
        )
        if not is_present
    ]
