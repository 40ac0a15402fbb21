"""The rules by which the oldest entries are removed, so that the log's size stays bounded.

Entries are removed in the order of the chain, in steps. An entry of the chain says so each time: it
holds the number of entries before the first one that is kept, and the hash of the last one that was
removed. So the rest can be proven, and a removal that no entry states is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from edge_agent.audit.database import STEP_ROWS, AuditDatabase
from edge_agent.core.audit_chain import (
    AuditEvent,
    ChainHead,
    Marker,
    parse_entry,
    parse_fields,
)

ENTRY_BYTES: Final = 4096 // 7
"""Disk space of an entry: seven fill a page."""


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """The rules for the removal of entries.

    Attributes:
        days: exported entries are removed after this many days; None keeps them.
        max_bytes: beyond this size the oldest entries are removed, exported or not.
    """

    days: int | None = None
    max_bytes: int = 2 << 30


@dataclass(frozen=True, slots=True)
class Removal:
    """Entries to remove: those before `base`, which becomes the start of the chain."""

    base: ChainHead
    event: AuditEvent


def plan_removal(
    database: AuditDatabase,
    rules: RetentionRules,
    *,
    exported: ChainHead | None,
    now: datetime,
    box_id: str,
) -> Removal | None:
    """Return the next step of entries to remove; None if none is due.

    Args:
        database: the open database.
        rules: when entries are removed.
        exported: the end of the chain up to which the log was exported.
        now: the time, with a time zone.
        box_id: the box's identity, for the entry that states the removal.

    Returns:
        At most one step; there may be another one after it.
    """
    end = database.base.count + STEP_ROWS
    if end >= database.end:
        return None
    line = database.find(end - 1)
    heads = None if line is None else parse_entry(line)
    if line is None or heads is None:
        return None  # A damaged log is kept as it is.
    base = heads[1]
    is_exported = exported is not None and exported.count >= base.count
    stored_bytes = (database.end - database.base.count) * ENTRY_BYTES
    is_old = rules.days is not None and _time_of(line) < now - timedelta(days=rules.days)
    if not (stored_bytes > rules.max_bytes or (is_exported and is_old)):
        return None
    action = Marker.REMOVED if is_exported else Marker.REMOVED_UNEXPORTED
    return Removal(base, AuditEvent(action, count=base.count, digest=base.hash, box=box_id))


def _time_of(line: bytes) -> datetime:
    return datetime.fromisoformat(str(parse_fields(line)["utc"]))
