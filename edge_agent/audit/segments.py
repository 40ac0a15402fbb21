"""The audit log on disk: segments, the anchor beside them, and what a power cut left behind.

`audit-<first entry, 12 digits>.jsonl` are the segments; one chain runs through all of them.
`anchor.json` says how far the chain had got when last made durable, so that a tail cut off later
shows. `torn-*.bin` are remains of half-written lines. All have mode 0600.
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
    """What is durable: the chain up to `link`, whose last line ends at `size_bytes` of `file`."""

    link: ChainHead
    file: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class RecoveryState:
    """How to go on: where the chain stands, the segment to append to, what to say about it.

    `segment` is None where a new one is to be begun.
    """

    link: ChainHead
    segment: Path | None
    markers: tuple[AuditEvent, ...]


def segments(folder: Path) -> list[Path]:
    """The log's files, oldest first."""
    return sorted(path for path in folder.iterdir() if _SEGMENT.fullmatch(path.name))


def segment_path(folder: Path, first: int) -> Path:
    """Where the segment lies that begins with this entry."""
    return folder / f"audit-{first:012d}.jsonl"


def first_entry(segment: Path) -> int | None:
    """Which entry a segment begins with by its name; None if it is not named like a segment."""
    match = _SEGMENT.fullmatch(segment.name)
    return None if match is None else int(match[1])


def write_anchor(folder: Path, anchor: Anchor) -> None:
    """Make an anchor durable.

    Raises:
        OSError: the disk is full or failing; the anchor before stands.
    """
    text = json.dumps(
        {
            "entries": anchor.link.count,
            "hash": anchor.link.hash,
            "file": anchor.file,
            "size_bytes": anchor.size_bytes,
        }
    )
    replace_file(folder / ANCHOR, text.encode() + b"\n")


def read_anchor(folder: Path) -> Anchor | None:
    """The anchor, or None if there is none.

    Raises:
        ValueError: what is there is no anchor.
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
        sound = (
            type(anchor.link.count) is int
            and _HASH.fullmatch(anchor.link.hash) is not None
            and _SEGMENT.fullmatch(anchor.file) is not None
            and type(anchor.size_bytes) is int
        )
    except (ValueError, TypeError, KeyError):
        sound = False
    if not sound:
        raise ValueError("the anchor is damaged")
    return anchor


def recover(folder: Path) -> RecoveryState:
    """Find where the chain goes on, and set aside what a power cut left of a line.

    Only the end is looked at: whether the rest is whole is `audit_verify`'s to tell. Where the
    end is missing although it was durable, the chain goes on from the anchor in a new segment, so
    that the gap stays visible for ever.

    Raises:
        OSError: the folder or a file in it cannot be read or written.
    """
    try:
        anchor = read_anchor(folder)
    except ValueError:
        anchor = None
    link, segment, torn_bytes = _last_sound_entry(folder, anchor)
    markers = []
    if torn_bytes:
        markers.append(AuditEvent(Marker.TORN_TAIL, count=torn_bytes))
    if anchor is None and segment is not None:
        markers.append(AuditEvent(Marker.ANCHOR_MISSING))
    if anchor is not None and link != anchor.link and link.count <= anchor.link.count:
        missing = anchor.link.count - link.count
        markers.append(AuditEvent(Marker.ENTRIES_MISSING, count=missing))
        link, segment = anchor.link, None
    return RecoveryState(link, segment, tuple(markers))


def _last_sound_entry(folder: Path, anchor: Anchor | None) -> tuple[ChainHead, Path | None, int]:
    torn_bytes = 0
    for segment in reversed(segments(folder)):
        link, end = _scan(segment, anchor)
        torn_bytes += _set_aside(segment, end)
        if link is not None:
            return link, segment, torn_bytes
        segment.unlink()  # Begun, and the power went before its first line was whole.
        fsync_folder(folder)
    return GENESIS, None, torn_bytes


def _scan(segment: Path, anchor: Anchor | None) -> tuple[ChainHead | None, int]:
    """The chain after the segment's last line that is whole, and where that line ends."""
    link, end = None, 0
    if anchor is not None and anchor.file == segment.name:
        vouched = anchor.size_bytes <= segment.stat().st_size
        link, end = (anchor.link, anchor.size_bytes) if vouched else (None, 0)
    position = end
    with segment.open("rb") as file:
        file.seek(position)
        for line in lines_of(file.read()):
            position += len(line)
            read = parse_entry(line)
            if read is not None:
                link, end = read[1], position
    return link, end


def lines_of(data: bytes) -> Iterator[bytes]:
    """Lines with their newlines; the last may lack one. Unlike `splitlines`, only LF divides."""
    start = 0
    while start < len(data):
        end = data.find(b"\n", start) + 1 or len(data)
        yield data[start:end]
        start = end


def _set_aside(segment: Path, end: int) -> int:
    """Move what follows `end` into a file of its own; how many bytes that were."""
    with segment.open("rb") as file:
        file.seek(end)
        rest = file.read()
    if not rest:
        return 0
    # Copied and durable before it is cut off.
    aside = segment.with_name(f"torn-{segment.stem}-{end}.bin")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
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
