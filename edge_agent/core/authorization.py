"""Who may do what, who a caller is taken for, and where the agent may listen without asking.

Callers are told apart by API key or client certificate and act in a role. Only on loopback, and
only where no credentials are set up, does everybody on the box count as known.
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
    """What a caller is trusted with; each may do all that the ones before it may."""

    VIEWER = "viewer"
    CLINIC = "clinic"
    ADMIN = "admin"


class Action(StrEnum):
    """What a caller asks for. Whatever a face has no name for is `ADMINISTER`."""

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
    """Why access was denied; goes into the audit log and the metrics."""

    NO_CREDENTIAL = "no_credential"
    UNKNOWN_CREDENTIAL = "unknown_credential"
    EXPIRED_CREDENTIAL = "expired_credential"
    FORWARDED = "forwarded"
    ROLE_TOO_LOW = "role_too_low"
    WRONG_HOST = "wrong_host"
    WRONG_ORIGIN = "wrong_origin"


@dataclass(frozen=True, slots=True)
class Principal:
    """A known caller. `actor` is how the audit log names it: `key:<id>`, `cert:<name>`, ..."""

    actor: str
    role: Role


@dataclass(frozen=True, slots=True)
class Denied:
    """No access. `actor` is as much as is certain about who asked."""

    reason: DenialReason
    actor: str = "unknown"
    detail: str = ""

    def to_error(self) -> CallerError:
        """What the caller is told: nothing about which credentials exist."""
        message, hint = _SAID[self.reason]
        kind = Forbidden if self.reason in _FORBIDDEN else Unauthenticated
        return kind(f"{message}{self.detail and f' ({self.detail})'}.", hint=hint)


_FORBIDDEN: Final = frozenset(
    {DenialReason.ROLE_TOO_LOW, DenialReason.WRONG_HOST, DenialReason.WRONG_ORIGIN}
)
_SAID: Final[Mapping[DenialReason, tuple[str, str | None]]] = MappingProxyType(
    {
        DenialReason.NO_CREDENTIAL: ("This needs a credential and none was sent", None),
        DenialReason.UNKNOWN_CREDENTIAL: ("The credential is not known here", None),
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
"""What one credential says: who it is, or why it counts for nothing."""

# Any program on the box can connect over loopback; that does not make it the box's operator.
LOOPBACK: Final = Principal("loopback", Role.CLINIC)


@dataclass(frozen=True, slots=True)
class Listener:
    """One port. `roles` says that keys or certificates are set up by which callers are known."""

    name: str
    host: str
    has_tls: bool = False
    has_roles: bool = False

    @property
    def is_open(self) -> bool:
        """Whether callers on this box need no credential."""
        return not self.has_roles and is_loopback(self.host)


def is_permitted(role: Role, action: Action) -> bool:
    """Whether the role allows the action."""
    return action in GRANTED[role]


def identify_caller(
    listener: Listener,
    *,
    key: AuthResult | None,
    certificate: AuthResult | None,
    peer_host: str,
    forwarded: bool = False,
) -> AuthResult:
    """Tell who is calling.

    A key that is shown must hold good: a wrong one is never made up for by a certificate. A
    certificate counts where no key is shown; proxies and gateways may have one of their own.

    Args:
        listener: where the call came in.
        key: what the API key says; None if none was shown.
        certificate: what the client certificate says; None if none was shown.
        peer_host: the caller's address, without the port; empty for a Unix socket.
        forwarded: whether headers say that a proxy passed the call on.
    """
    shown = key if key is not None else certificate
    if shown is not None:
        return shown
    if not listener.is_open or not (peer_host == "" or is_loopback(peer_host)):
        return Denied(DenialReason.NO_CREDENTIAL)
    return Denied(DenialReason.FORWARDED) if forwarded else LOOPBACK


def authorize(action: Action, who: AuthResult) -> AuthResult:
    """Let a known caller through to an action that its role allows; deny all else."""
    if isinstance(who, Denied) or is_permitted(who.role, action):
        return who
    return Denied(DenialReason.ROLE_TOO_LOW, who.actor, f"{who.role} may not: {action}")


def is_loopback(host: str) -> bool:
    """Whether an address (IPv4, IPv6 with or without brackets, `localhost`) stays on this box.

    Names other than `localhost` do not count, whatever they may resolve to; nor do wildcards.
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
    """Refuse to start where other machines could read along or come in unasked.

    Raises:
        ConfigInvalid: a listener beyond loopback lacks TLS, roles or both; all are named.
    """
    problems = [
        f"{it.name} would listen on {it.host or 'every address'}, which other machines can reach, "
        + " and ".join(_lacks(it))
        for it in listeners
        if not is_loopback(it.host) and _lacks(it)
    ]
    if problems:
        raise ConfigInvalid(
            f"Refusing to start open: {'; '.join(problems)}.",
            hint="Listen on 127.0.0.1, or set the certificate and key files and add API keys "
            "or client certificates with a role.",
        )


def _lacks(listener: Listener) -> list[str]:
    return [
        what
        for there, what in (
            (listener.has_tls, "in plain text (radiographs and keys could be read on the way)"),
            (listener.has_roles, "with no roles (anybody could use it)"),
        )
        if not there
    ]
