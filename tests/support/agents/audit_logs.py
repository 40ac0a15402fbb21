"""Audit logs for tests: the entries of a log, and logs as earlier releases wrote them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge_agent.audit.database import DATABASE
from edge_agent.audit.reading import DatabaseReader
from edge_agent.audit.segments import (
    Anchor,
    list_segments,
    segment_path,
    split_lines,
    write_anchor,
)
from edge_agent.core.audit_chain import GENESIS, AuditEvent, append_entry


def read_lines(folder: Path) -> list[bytes]:
    """Return the lines of a log's entries: those in segments, then those in the database."""
    lines = [line for file in list_segments(folder) for line in split_lines(file.read_bytes())]
    if (folder / DATABASE).exists():
        with DatabaseReader(folder / DATABASE) as reader:
            lines += [line for _, line in reader.read()]
    return lines


def read_entries(folder: Path) -> list[dict[str, Any]]:
    """Return a log's entries."""
    return [json.loads(line) for line in read_lines(folder)]


def write_segments(folder: Path, events: Iterable[AuditEvent], *, per_file: int) -> None:
    """Write a log in segments, with its anchor, as releases before the database did."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    head, file = GENESIS, segment_path(folder, 0)
    for number, event in enumerate(events):
        if number % per_file == 0:
            file = segment_path(folder, number)
        line, head = append_entry(head, datetime.now(UTC), event)
        with file.open("ab") as lines:
            lines.write(line)
        file.chmod(0o600)
    write_anchor(folder, Anchor(head, file.name, file.stat().st_size))
