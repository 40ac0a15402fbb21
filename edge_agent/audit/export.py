"""Export of the log: the next entries as a file that can be verified on its own.

An export folder holds files of the same form as the segments of older logs, one chain through all
of them, and an anchor. A file and the ones before it can be checked without the agent
(`hilum-edge audit verify FOLDER`). After each export a cursor beside the log names the last entry
that was exported; the agent may remove entries before it (`audit.retention_days`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_agent.audit.database import DATABASE
from edge_agent.audit.export_cursor import EXPORT_CURSOR, move_export_cursor, read_export_cursor
from edge_agent.audit.reading import DatabaseReader
from edge_agent.audit.segments import (
    Anchor,
    list_segments,
    read_anchor,
    segment_path,
    split_lines,
    write_anchor,
)
from edge_agent.core.audit_chain import GENESIS, ChainHead, parse_entry, verify_entry
from edge_agent.system.files import fsync_folder, lock_file, write_all

_BUFFER_BYTES: Final = 1 << 20


class ExportFailed(Exception):
    """The log cannot be exported; the message says why."""


@dataclass(frozen=True, slots=True)
class ExportResult:
    """An export: the file, None if there was nothing new, and its entries' numbers."""

    file: Path | None
    first: int
    head: ChainHead

    @property
    def entries(self) -> int:
        """The number of entries in the file."""
        return self.head.count - self.first


def export(folder: Path, target: Path) -> ExportResult:
    """Write the entries since the last export to a new file, and move the cursor.

    Args:
        folder: the audit log's folder; the agent may be running.
        target: the folder to write to, which is made if absent.

    Returns:
        What was written.

    Raises:
        ExportFailed: the chain is broken, or the target has another log's export.
        OSError: a file cannot be read or written; no file is left behind.
    """
    # The cursor itself is locked: on a full disk there may be no room for another file.
    with lock_file(folder / EXPORT_CURSOR):
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        start = _find_start(folder, target, read_export_cursor(folder))
        path = segment_path(target, start.count)
        if path.exists():
            raise ExportFailed(f"{path} exists already")
        part = path.with_name(f".{path.name}.part")
        try:
            head, size_bytes = _write_file(part, _read_entries(folder, start.count), start)
            if head == start:
                return ExportResult(None, start.count, start)
            part.rename(path)
        finally:
            part.unlink(missing_ok=True)
        fsync_folder(target)
        write_anchor(target, Anchor(head, path.name, size_bytes))
        move_export_cursor(folder, head)
        return ExportResult(path, start.count, head)


def _find_start(folder: Path, target: Path, cursor: ChainHead | None) -> ChainHead:
    """Return the place after the last export, or the start of what there is.

    An export whose cursor could not be moved is continued, too: the target's anchor names its end.
    """
    start = GENESIS
    if not list_segments(folder):
        with DatabaseReader(folder / DATABASE) as reader:
            start = reader.base
    if cursor is not None and cursor.count > start.count:
        start = cursor
    try:
        anchor = read_anchor(target)
    except ValueError:
        raise ExportFailed(f"the anchor in {target} is damaged") from None
    if anchor is None or anchor.head.count < start.count or anchor.head == start:
        return start
    line = next(_read_entries(folder, anchor.head.count - 1), b"")
    heads = parse_entry(line)
    if heads is None or heads[1] != anchor.head:
        raise ExportFailed(
            f"{target} has another log's export: the log has another entry {anchor.head.count - 1}"
        )
    return anchor.head


def _read_entries(folder: Path, start: int) -> Iterator[bytes]:
    """Yield the log's entries from a number on: those in segments, then those in the database."""
    for segment in list_segments(folder):
        for line in split_lines(segment.read_bytes()):
            heads = parse_entry(line)
            if heads is None or heads[0].count >= start:
                yield line
    if (folder / DATABASE).exists():
        with DatabaseReader(folder / DATABASE) as reader:
            for _, line in reader.read(start):
                yield line


def _write_file(path: Path, lines: Iterator[bytes], head: ChainHead) -> tuple[ChainHead, int]:
    """Write entries that continue the chain; return its new end, and the file's size in bytes."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        buffer, size_bytes = bytearray(), 0
        for line in lines:
            after = verify_entry(head, line)
            if isinstance(after, str):
                raise ExportFailed(f"the log is broken at entry {head.count}: {after}")
            head = after
            buffer += line
            if len(buffer) >= _BUFFER_BYTES:
                write_all(descriptor, bytes(buffer))
                size_bytes += len(buffer)
                buffer.clear()
        write_all(descriptor, bytes(buffer))
        os.fsync(descriptor)
        return head, size_bytes + len(buffer)
    finally:
        os.close(descriptor)
