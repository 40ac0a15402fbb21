"""The audit log's entries and their chain: what may be written, and what proves it unchanged.

One entry is one line of JSON. Its last field is the SHA-256 of the line's bytes before that field;
the field before it repeats the previous entry's hash. So a line that is changed, removed, repeated
or moved breaks the chain at that place (after Schneier and Kelsey, 'Secure audit logs to support
computer forensics', 1999, without their per-entry keys: see docs/decisions/0011-audit-log.md).

No field takes free text: actors come from the operator's own files, everything else is an
enumeration, a number or hexadecimal digits. Patient data has no way in.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Literal

from edge_agent.core.authorization import Action, AuthResult, DenialReason, Denied, Role
from hilum.codes import ErrorCode

ACTOR_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9 ._=,+@:/*-]{0,127}$"
"""How a client certificate may be named in the log."""

_ACTOR: Final = re.compile(
    r"agent|unknown|loopback|key:[0-9a-f]{10}|cert:" + ACTOR_NAME[1:-1], re.ASCII
)
_REQUEST: Final = re.compile(r"[0-9a-f]{0,64}", re.ASCII)
_BUNDLE: Final = re.compile(r"[0-9a-f]{0,16}", re.ASCII)
_BUNDLE_DIGITS: Final = 12
_HASH_FIELD: Final = b',"hash":"'


class Marker(StrEnum):
    """What the log says about itself. `count` is in entries, for `TORN_TAIL` in bytes."""

    OPENED = "log_opened"
    CLOSED = "log_closed"
    TORN_TAIL = "log_torn_tail"
    ENTRIES_MISSING = "log_entries_missing"
    ANCHOR_MISSING = "log_anchor_missing"
    ENTRIES_LOST = "log_entries_lost"
    DENIALS_UNLISTED = "log_denials_unlisted"


Outcome = Literal["ok"] | ErrorCode | DenialReason


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One access, or one thing that happened to the log.

    Attributes:
        action: what was asked for.
        outcome: `ok`, why access was denied, or the error's code.
        actor: who asked: `key:<id>`, `cert:<name>`, `loopback`, `unknown`, or `agent` itself.
        role: the role acted in; None where nobody is known.
        request: digest of the request's id in hexadecimal digits; never the id itself, which
            callers may have taken from the patient's record.
        bundle: the first digits of the digest of the bundle that answered.
        count: how many this entry stands for.

    Raises:
        ValueError: a field holds anything else; it is not repeated in the message.
    """

    action: Action | Marker
    outcome: Outcome = "ok"
    actor: str = "agent"
    role: Role | None = None
    request: str = ""
    bundle: str = ""
    count: int = 1

    def __post_init__(self) -> None:
        sound = {
            "action": isinstance(self.action, Action | Marker),
            "outcome": self.outcome == "ok" or isinstance(self.outcome, ErrorCode | DenialReason),
            "actor": _ACTOR.fullmatch(self.actor) is not None,
            "role": self.role is None or isinstance(self.role, Role),
            "request": _REQUEST.fullmatch(self.request) is not None,
            "bundle": _BUNDLE.fullmatch(self.bundle) is not None,
            "count": type(self.count) is int and self.count >= 0,
        }
        for field, holds in sound.items():
            if not holds:
                raise ValueError(f"not a value that an audit entry's {field} may have")


def make_access_event(
    who: AuthResult,
    action: Action,
    outcome: Literal["ok"] | ErrorCode = "ok",
    *,
    request: str = "",
    bundle: str = "",
) -> AuditEvent:
    """The entry for one access; a denial brings its own outcome.

    Args:
        who: the decision about the caller.
        action: what was asked for.
        outcome: `ok` or the code of the error that was answered.
        request: the request id's digest.
        bundle: the digest of the bundle that answered, whole or not at all.
    """
    prefix = bundle[:_BUNDLE_DIGITS]
    if isinstance(who, Denied):
        return AuditEvent(action, who.reason, who.actor, None, request, prefix)
    return AuditEvent(action, outcome, who.actor, who.role, request, prefix)


@dataclass(frozen=True, slots=True)
class ChainHead:
    """Where a chain stands: how many entries it has, and the last one's hash."""

    count: int
    hash: str


GENESIS: Final = ChainHead(0, "0" * 64)


def append_entry(link: ChainHead, utc: datetime, event: AuditEvent) -> tuple[bytes, ChainHead]:
    """The line that continues a chain, with its newline, and where the chain then stands."""
    body = json.dumps(
        {
            "seq": link.count,
            "utc": utc.astimezone(UTC).isoformat(timespec="microseconds"),
            "actor": event.actor,
            "role": event.role or "",
            "action": event.action,
            "outcome": event.outcome,
            "request": event.request,
            "bundle": event.bundle,
            "count": event.count,
            "prev": link.hash,
        },
        separators=(",", ":"),
    ).encode()[:-1]
    digest = hashlib.sha256(body).hexdigest()
    return b"".join((body, _HASH_FIELD, digest.encode(), b'"}\n')), ChainHead(
        link.count + 1, digest
    )


def parse_entry(line: bytes) -> tuple[ChainHead, ChainHead] | None:
    """Where the chain stood before and after this line; None if the line is damaged in itself."""
    body, _, rest = line.rpartition(_HASH_FIELD)
    digest = hashlib.sha256(body).hexdigest()
    if rest != digest.encode() + b'"}\n':
        return None
    try:
        fields = json.loads(body + b"}")
        before = ChainHead(fields["seq"], fields["prev"])
    except (ValueError, TypeError, KeyError):
        return None
    return (before, ChainHead(before.count + 1, digest)) if type(before.count) is int else None


def verify_entry(link: ChainHead, line: bytes) -> ChainHead | str:
    """Check that a line continues the chain: where it stands then, or what is wrong."""
    read = parse_entry(line)
    if read is None:
        return "the line was changed: its hash does not fit it"
    before, after = read
    if before.count > link.count:
        return f"entries {link.count} to {before.count - 1} are missing before it"
    if before.count < link.count:
        return f"it is entry {before.count} where entry {link.count} belongs"
    if before.hash != link.hash:
        return "it does not continue the entry before it"
    return after


class DenialTokenBucket:
    """Lists denials up to a rate and counts the rest, so that nobody can fill the disk unasked.

    Times are seconds of a monotonic clock.
    """

    def __init__(self, *, burst: int, per_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._tokens = float(burst)
        self._at_s: float | None = None
        self._unlisted = 0

    def admit(self, now_s: float) -> bool:
        """Whether a denial at this time is listed; one that is not is counted."""
        self._refill(now_s)
        if self._tokens < 1:
            self._unlisted += 1
            return False
        self._tokens -= 1
        return True

    def take_unlisted(self, now_s: float, *, closing: bool = False) -> int:
        """How many went unlisted, once there is room to say so; they are then forgotten here."""
        self._refill(now_s)
        if self._unlisted == 0 or (self._tokens < 1 and not closing):
            return 0
        self._tokens -= 1
        unlisted, self._unlisted = self._unlisted, 0
        return unlisted

    def _refill(self, now_s: float) -> None:
        elapsed_s = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
        self._at_s = now_s
        self._tokens = min(float(self._burst), self._tokens + elapsed_s * self._per_s)
