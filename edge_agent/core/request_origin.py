"""Protection of the page against requests from other sites, by request headers.

Any site that a user visits can make the user's browser send requests from the user's place in the
network and, with client certificates or on loopback, with the user's rights. Two attacks are
prevented:

1. DNS rebinding: a site points its own name at this box, so that the browser treats both as one
   site. The Host header (RFC 9110 section 7.2) still contains the site's name.
2. Cross-site request forgery: a site submits a form to this box. The browser declares the site in
   Origin (RFC 6454) or in Sec-Fetch-Site (Fetch Metadata).

Clients that are not browsers send neither Origin nor Sec-Fetch-Site and are accepted.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from edge_agent.core.authorization import DenialReason, Denied
from edge_agent.errors import ConfigInvalid

Scheme = Literal["http", "https"]
_DEFAULT_PORT: Final = {"http": 80, "https": 443}
_MAX_PORT: Final = 65535
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_AUTHORITY: Final = re.compile(
    r"(?:(?P<name>[a-z0-9](?:[a-z0-9._-]{0,252}))|\[(?P<v6>[0-9a-f:.]{2,45})\])(?::(?P<port>[0-9]{1,5}))?",
    re.IGNORECASE | re.ASCII,
)
_ORIGIN: Final = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#@\s]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Authority:
    """Host and port of a URL; the host in lower case, without brackets or a final dot."""

    host: str
    port: int | None


@dataclass(frozen=True, slots=True)
class TrustedHosts:
    """The names of the page, and the other pages that may send requests to it.

    Attributes:
        scheme: `https` where the port uses TLS.
        hosts: names and addresses of the page; those of loopback are always among them.
        origins: scheme, host and port of other pages, such as a site's own viewer.
    """

    scheme: Scheme
    hosts: frozenset[str]
    origins: frozenset[tuple[str, str, int]] = frozenset()


def parse_trusted_hosts(
    scheme: Scheme, hosts: Iterable[str] = (), origins: Iterable[str] = ()
) -> TrustedHosts:
    """Parse the configured names.

    Args:
        scheme: `https` where the port uses TLS.
        hosts: names and addresses of this box, without a port.
        origins: other pages' origins, such as `https://viewer.example:8443`.

    Returns:
        The names, with those of loopback.

    Raises:
        ConfigInvalid: a name or origin is not of that form.
    """
    known = set(_LOOPBACK_NAMES)
    for host in hosts:
        authority = parse_authority(f"[{host}]" if host.count(":") > 1 and host[0] != "[" else host)
        if authority is None or authority.port is not None:
            raise ConfigInvalid(
                f"{host!r} is not a host's name.",
                hint="Give a name or address without scheme or port, such as xray.example.",
            )
        known.add(authority.host)
    foreign = set()
    for origin in origins:
        parsed = parse_origin(origin)
        if parsed is None:
            raise ConfigInvalid(
                f"{origin!r} is not an origin.",
                hint="Give scheme, host and port only, such as https://viewer.example:8443.",
            )
        foreign.add(parsed)
    return TrustedHosts(scheme, frozenset(known), frozenset(foreign))


def check_request(
    names: TrustedHosts,
    *,
    method: str,
    host: Sequence[str],
    origin: Sequence[str] = (),
    fetch_site: str | None = None,
    fetch_mode: str | None = None,
) -> Denied | None:
    """Check that a request was sent by the page, by another allowed page or by no browser.

    Args:
        names: the page's names.
        method: the HTTP method.
        host: every value of the Host header.
        origin: every value of the Origin header.
        fetch_site: Sec-Fetch-Site, if sent.
        fetch_mode: Sec-Fetch-Mode, if sent.

    Returns:
        The denial, or None where the request is allowed.
    """
    requested = parse_authority(host[0]) if len(host) == 1 else None
    if requested is None or requested.host not in names.hosts:
        return Denied(DenialReason.WRONG_HOST)
    if origin:
        sender = parse_origin(origin[0]) if len(origin) == 1 else None
        own = (names.scheme, requested.host, requested.port or _DEFAULT_PORT[names.scheme])
        # `null` (sandboxed frames, some redirects) parses to None.
        is_allowed = sender is not None and (sender == own or sender in names.origins)
        return None if is_allowed else Denied(DenialReason.WRONG_ORIGIN)
    if fetch_site in (None, "same-origin", "none"):
        return None
    # A link on another site may lead to the page, because that site cannot read the answer.
    is_link = fetch_mode == "navigate" and method in {"GET", "HEAD"}
    return None if is_link else Denied(DenialReason.WRONG_ORIGIN)


def parse_authority(text: str) -> Authority | None:
    """Return the parts of `host[:port]` (RFC 3986 section 3.2, no userinfo); None if malformed."""
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        return None
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port <= _MAX_PORT:
        return None
    if match["v6"] is None:
        return Authority(match["name"].lower().removesuffix("."), port)
    try:
        return Authority(ipaddress.IPv6Address(match["v6"]).compressed, port)
    except ValueError:
        return None


def parse_origin(text: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port of an origin; None for `null` and malformed ones."""
    match = _ORIGIN.fullmatch(text)
    authority = parse_authority(match["authority"]) if match else None
    if match is None or authority is None:
        return None
    scheme = match["scheme"]
    return scheme, authority.host, authority.port or _DEFAULT_PORT[scheme]
