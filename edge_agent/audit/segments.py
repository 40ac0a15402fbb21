"""Segments: the files of exports, and of logs that releases before the database wrote.

`audit-<first entry, 12 digits>.jsonl` are the segments; one chain runs through all of them.
`anchor.json` holds the end of the chain when it was last made durable, so that a truncation
afterwards is detected. `torn-*.bin` hold remains of half-written lines. All have mode 0600.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_agent.core.audit_chain import GENESIS, AuditEvent, ChainHead, Marker, parse_entry
from edge_agent.system.files import fsync_folder, replace_file, write_all

ANCHOR: Final = "anchor.json"
_SEGMENT: Final = re.compile(r"audit-([0-9]{12})\.jsonl", re.ASCII)
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Anchor:
    """The durable end of the chain: `head`, whose line ends at `size_bytes` of `file`."""

    head: ChainHead
    file: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class RecoveryState:
    """State of a log that is opened again.

    Attributes:
        head: the end of the chain.
        segment: the segment to append to; None for a new one.
        markers: events of the recovery, to be recorded first.
    """

    head: ChainHead
    segment: Path | None
    markers: tuple[AuditEvent, ...]


def list_segments(folder: Path) -> list[Path]:
    """Return the log's segments, oldest first."""
    return sorted(path for path in folder.iterdir() if _SEGMENT.fullmatch(path.name))


def segment_path(folder: Path, first: int) -> Path:
    """Return the path of the segment that begins with this entry."""
    return folder / f"audit-{first:012d}.jsonl"


def parse_segment_name(segment: Path) -> int | None:
    """Return the number of a segment's first entry; None if the file has another name."""
    match = _SEGMENT.fullmatch(segment.name)
    return None if match is None else int(match[1])


def write_anchor(folder: Path, anchor: Anchor) -> None:
    """Make an anchor durable.

    Raises:
        OSError: the disk is full or failing; the previous anchor is untouched.
    """
    text = json.dumps(
        {
            "entries": anchor.head.count,
            "hash": anchor.head.hash,
            "file": anchor.file,
            "size_bytes": anchor.size_bytes,
        }
    )
    replace_file(folder / ANCHOR, text.encode() + b"\n")


def read_anchor(folder: Path) -> Anchor | None:
    """Read the anchor; None if there is none.

    Raises:
        ValueError: the file is not an anchor.
    """
    try:
        data = (folder / ANCHOR).read_bytes()
    except FileNotFoundError:
        return None
    try:
        fields = json.loads(data)
        anchor = Anchor(
            ChainHead(fields["entries"], fields["hash"]), fields["file"], fields["size_bytes"]
        )
        is_valid = (
            type(anchor.head.count) is int
            and _HASH.fullmatch(anchor.head.hash) is not None
            and _SEGMENT.fullmatch(anchor.file) is not None
            and type(anchor.size_bytes) is int
        )
    except (ValueError, TypeError, KeyError):
        is_valid = False
    if not is_valid:
        raise ValueError("the anchor is damaged")
    return anchor


def recover(folder: Path) -> RecoveryState:
    """Find the end of the chain, and move remains of a half-written line to a file of their own.

    Only the end is checked; `audit.verify` checks the rest. If the end is missing although it was
    durable, the chain continues from the anchor in a new segment, so that the gap stays visible.

    Returns:
        The end of the chain, and the events to record.

    Raises:
        OSError: the folder or a file in it cannot be read or written.
    """
    try:
        anchor = read_anchor(folder)
    except ValueError:
        anchor = None
    head, segment, torn_bytes = _find_last_valid_entry(folder, anchor)
    markers = []
    if torn_bytes:
        markers.append(AuditEvent(Marker.TORN_TAIL, count=torn_bytes))
    if anchor is None and segment is not None:
        markers.append(AuditEvent(Marker.ANCHOR_MISSING))
    if anchor is not None and head != anchor.head and head.count <= anchor.head.count:
        missing = anchor.head.count - head.count
        markers.append(AuditEvent(Marker.ENTRIES_MISSING, count=missing))
        head, segment = anchor.head, None
    return RecoveryState(head, segment, tuple(markers))


def _find_last_valid_entry(
    folder: Path, anchor: Anchor | None
) -> tuple[ChainHead, Path | None, int]:
    torn_bytes = 0
    for segment in reversed(list_segments(folder)):
        head, end = _scan(segment, anchor)
        torn_bytes += _move_remains(segment, end)
        if head is not None:
            return head, segment, torn_bytes
        segment.unlink()  # Its first line was never completed.
        fsync_folder(folder)
    return GENESIS, None, torn_bytes


def _scan(segment: Path, anchor: Anchor | None) -> tuple[ChainHead | None, int]:
    """Return the chain's end after the segment's last valid line, and the line's end in bytes."""
    head, end = None, 0
    if anchor is not None and anchor.file == segment.name:
        is_covered = anchor.size_bytes <= segment.stat().st_size
        head, end = (anchor.head, anchor.size_bytes) if is_covered else (None, 0)
    position = end
    with segment.open("rb") as file:
        file.seek(position)
        for line in split_lines(file.read()):
            position += len(line)
            read = parse_entry(line)
            if read is not None:
                head, end = read[1], position
    return head, end


def split_lines(data: bytes) -> Iterator[bytes]:
    """Yield lines with their newlines; the last may lack one. Unlike `splitlines`, splits at LF."""
    start = 0
    while start < len(data):
        end = data.find(b"\n", start) + 1 or len(data)
        yield data[start:end]
        start = end


def _move_remains(segment: Path, end: int) -> int:
    """Move the bytes after `end` to a file of their own; return their number."""
    with segment.open("rb") as file:
        file.seek(end)
        rest = file.read()
    if not rest:
        return 0
    # The copy is durable before the original is truncated.
    remains = segment.with_name(f"torn-{segment.stem}-{end}.bin")
    descriptor = os.open(remains, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, rest)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fsync_folder(segment.parent)
    descriptor = os.open(segment, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, end)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return len(rest)
