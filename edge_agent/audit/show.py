"""The last entries of an audit log, for people."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

from edge_agent.audit.anchor import read_anchor_file
from edge_agent.audit.database import DATABASE
from edge_agent.audit.reading import DatabaseReader
from edge_agent.audit.segments import list_segments, split_lines
from edge_agent.audit.store import ANCHOR
from edge_agent.core.audit_chain import parse_fields


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry: its line without the newline, and its fields, empty if the line is damaged."""

    text: str
    fields: dict[str, object]


def read_last_entries(folder: Path, count: int) -> list[Entry]:
    """Return the last entries in the order of the chain, whether or not they are intact.

    Raises:
        OSError: the log cannot be read, or there is none.
    """
    lines: deque[bytes] = deque(maxlen=count)
    database = folder / DATABASE
    files = list_segments(folder)
    if not files and not database.exists():
        raise FileNotFoundError(f"{folder} holds no audit log")
    for file in files:
        lines.extend(split_lines(file.read_bytes()))
    if database.exists():
        with DatabaseReader(database) as reader:
            lines.extend(line for _, line in reader.read(_find_start(folder, count)))
    return [_parse(line) for line in lines]


def _find_start(folder: Path, count: int) -> int:
    """Return an entry's number that is at least `count` before the end, to read no more."""
    try:
        anchor = read_anchor_file(folder / ANCHOR)
    except ValueError:
        anchor = None
    return 0 if anchor is None else max(0, anchor.count - count)


def _parse(line: bytes) -> Entry:
    text = line.decode(errors="backslashreplace").rstrip("\n")
    try:
        return Entry(text, parse_fields(line))
    except ValueError:
        return Entry(text, {})
