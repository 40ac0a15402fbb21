"""The audit log's entries and the hash chain that makes changes detectable.

One entry is one line of JSON. Its last field is the SHA-256 of the line's bytes before that field;
the field before it repeats the previous entry's hash. So a line that is changed, removed, repeated
or moved breaks the chain at that place (after Schneier and Kelsey, 'Secure audit logs to support
computer forensics', 1999, without their per-entry keys: see docs/decisions/0011-audit-log.md).

The fields answer the questions of an audit record in IHE ATNA (DICOM PS3.15 A.5): who (`actor`,
`role`), what (`action`), when (`utc`), on what (`request`, `bundle`) and with what result
(`outcome`). `edge_agent.audit.atna` writes them in the XML of that profile.

No field takes free text: actors come from the operator's own files; everything else is an
enumeration, a number or hexadecimal digits. So an entry cannot contain patient data.
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
"""The form of a client certificate's name in the log."""

_ACTOR: Final = re.compile(
    r"agent|unknown|loopback|local|key:[0-9a-f]{10}|cert:" + ACTOR_NAME[1:-1], re.ASCII
)
_REQUEST: Final = re.compile(r"[0-9a-f]{0,64}", re.ASCII)
_BUNDLE: Final = re.compile(r"[0-9a-f]{0,16}", re.ASCII)
_DIGEST: Final = re.compile(r"([0-9a-f]{64})?", re.ASCII)
_BOX: Final = re.compile(r"([0-9a-f]{32})?", re.ASCII)
_BUNDLE_DIGITS: Final = 12
_HASH_FIELD: Final = b',"hash":"'


class Marker(StrEnum):
    """An event of the log itself. Its `count` is in entries, for `TORN_TAIL` in bytes.

    `DAMAGED` and `OTHER_BOX`: the files were set aside, and count is the number of entries in them.
    `EXPORTED`, `REMOVED` and `REMOVED_UNEXPORTED` name a place in the chain: `count` entries come
    before it, and `digest` is the hash of the last of them.
    """

    OPENED = "log_opened"
    CLOSED = "log_closed"
    TORN_TAIL = "log_torn_tail"
    ENTRIES_MISSING = "log_entries_missing"
    ANCHOR_MISSING = "log_anchor_missing"
    ENTRIES_LOST = "log_entries_lost"
    DENIALS_UNLISTED = "log_denials_unlisted"
    DAMAGED = "log_damaged"
    OTHER_BOX = "log_other_box"
    EXPORTED = "log_exported"
    REMOVED = "log_removed"
    REMOVED_UNEXPORTED = "log_removed_unexported"


Outcome = Literal["ok"] | ErrorCode | DenialReason


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """An access, or an event of the log itself.

    Attributes:
        action: the requested action, or the log's event.
        outcome: `ok`, the reason for the denial, or the error's code.
        actor: the caller: `key:<id>`, `cert:<name>`, `loopback`, `local` (the agent's
            user over its socket), `unknown`, or `agent` itself.
        role: the caller's role; None where the caller is unknown.
        request: digest of the request's id in hexadecimal digits; never the id itself, which
            callers may have taken from the patient's record.
        bundle: the first digits of the digest of the bundle that answered.
        count: number of events that this entry records.
        digest: for a place in the chain: the hash of the entry before it.
        box: for `OPENED`: the identity of the box that writes the log, 32 hexadecimal digits.

    Raises:
        ValueError: a field has another value, which the message does not repeat.
    """

    action: Action | Marker
    outcome: Outcome = "ok"
    actor: str = "agent"
    role: Role | None = None
    request: str = ""
    bundle: str = ""
    count: int = 1
    digest: str = ""
    box: str = ""

    def __post_init__(self) -> None:
        checks = {
            "action": isinstance(self.action, Action | Marker),
            "outcome": self.outcome == "ok" or isinstance(self.outcome, ErrorCode | DenialReason),
            "actor": _ACTOR.fullmatch(self.actor) is not None,
            "role": self.role is None or isinstance(self.role, Role),
            "request": _REQUEST.fullmatch(self.request) is not None,
            "bundle": _BUNDLE.fullmatch(self.bundle) is not None,
            "count": type(self.count) is int and self.count >= 0,
            "digest": _DIGEST.fullmatch(self.digest) is not None,
            "box": _BOX.fullmatch(self.box) is not None,
        }
        for field, is_valid in checks.items():
            if not is_valid:
                raise ValueError(f"not a value that an audit entry's {field} may have")


def make_access_event(
    caller: AuthResult,
    action: Action,
    outcome: Literal["ok"] | ErrorCode = "ok",
    *,
    request: str = "",
    bundle: str = "",
) -> AuditEvent:
    """Make the event of one access.

    Args:
        caller: the caller, or the denial, whose reason then is the outcome.
        action: the requested action.
        outcome: `ok`, or the code of the error in the answer.
        request: the request id's digest.
        bundle: the whole digest of the bundle that answered, or empty.

    Returns:
        The event.
    """
    prefix = bundle[:_BUNDLE_DIGITS]
    if isinstance(caller, Denied):
        return AuditEvent(action, caller.reason, caller.actor, None, request, prefix)
    return AuditEvent(action, outcome, caller.actor, caller.role, request, prefix)


@dataclass(frozen=True, slots=True)
class ChainHead:
    """The end of a chain: the number of entries so far, and the last one's hash."""

    count: int
    hash: str


GENESIS: Final = ChainHead(0, "0" * 64)


def append_entry(head: ChainHead, utc: datetime, event: AuditEvent) -> tuple[bytes, ChainHead]:
    """Write an event as the next entry of a chain.

    Args:
        head: the end of the chain.
        utc: time of the event, with a time zone.
        event: the event.

    Returns:
        The line, with its newline, and the new end of the chain.
    """
    body = json.dumps(
        {
            "seq": head.count,
            "utc": utc.astimezone(UTC).isoformat(timespec="microseconds"),
            "actor": event.actor,
            "role": event.role or "",
            "action": event.action,
            "outcome": event.outcome,
            "request": event.request,
            "bundle": event.bundle,
            "count": event.count,
            **({"digest": event.digest} if event.digest else {}),
            **({"box": event.box} if event.box else {}),
            "prev": head.hash,
        },
        separators=(",", ":"),
    ).encode()[:-1]
    digest = hashlib.sha256(body).hexdigest()
    return b"".join((body, _HASH_FIELD, digest.encode(), b'"}\n')), ChainHead(
        head.count + 1, digest
    )


def parse_entry(line: bytes) -> tuple[ChainHead, ChainHead] | None:
    """Return the end of the chain before and after this line; None if the line is damaged."""
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


def parse_fields(line: bytes) -> dict[str, object]:
    """Return an entry's fields; the caller has checked its hash (`parse_entry`)."""
    fields = json.loads(line)
    return fields if isinstance(fields, dict) else {}


def verify_entry(head: ChainHead, line: bytes) -> ChainHead | str:
    """Check that a line continues the chain; return the chain's new end, or the problem."""
    heads = parse_entry(line)
    if heads is None:
        return "the line was changed: its hash does not fit it"
    before, after = heads
    if before.count > head.count:
        return f"entries {head.count} to {before.count - 1} are missing before it"
    if before.count < head.count:
        return f"it is entry {before.count} where entry {head.count} belongs"
    if before.hash != head.hash:
        return "it does not continue the entry before it"
    return after


class DenialTokenBucket:
    """A token bucket for denials: lists them up to a rate and counts the rest.

    Without it, unauthenticated requests could fill the disk. Times are seconds of a monotonic
    clock.
    """

    def __init__(self, *, burst: int, per_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._tokens = float(burst)
        self._at_s: float | None = None
        self._unlisted = 0

    def admit(self, now_s: float) -> bool:
        """Return whether a denial at this time is listed; count it if it is not."""
        self._refill(now_s)
        if self._tokens < 1:
            self._unlisted += 1
            return False
        self._tokens -= 1
        return True

    def take_unlisted(self, now_s: float, *, closing: bool = False) -> int:
        """Return the number of unlisted denials once there is room for the entry, and reset it.

        Args:
            now_s: monotonic seconds.
            closing: the log is being closed, so the entry is written in any case.
        """
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
