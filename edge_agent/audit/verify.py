"""Verification of an audit log: find the first broken entry.

The chain detects every change by someone who cannot recompute it from there to the end. Someone
who can write to the whole folder can do that; then only a hash kept elsewhere detects it (the
agent's own log has it at every start and stop, and so have the exports).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_agent.audit.anchor import read_anchor_file
from edge_agent.audit.database import DATABASE, DatabaseDamaged
from edge_agent.audit.reading import DatabaseReader
from edge_agent.audit.segments import ANCHOR as SEGMENTS_ANCHOR
from edge_agent.audit.segments import (
    list_segments,
    parse_segment_name,
    read_anchor,
)
from edge_agent.audit.store import ANCHOR
from edge_agent.core.audit_chain import (
    GENESIS,
    ChainHead,
    Marker,
    parse_entry,
    parse_fields,
    verify_entry,
)

_REMOVALS = (Marker.REMOVED, Marker.REMOVED_UNEXPORTED)


@dataclass(frozen=True, slots=True)
class ChainBreak:
    """The first broken entry of a log.

    Attributes:
        file: the name of the file.
        line: the line, from 1; in the database, the entry's number.
        reason: what is broken.
    """

    file: str
    line: int
    reason: str

    def describe(self) -> str:
        """Return the place and the reason."""
        unit = "entry" if self.file == DATABASE else "line"
        return f"{self.file}, {unit} {self.line}: {self.reason}"


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """Result of a verification.

    Attributes:
        first: the first entry that was checked; 0 unless older entries were moved away.
        head: the end of the chain after the last valid entry.
        has_anchor: whether an anchor covers the end; without, a truncation is not detected.
        torn_bytes: length of a half-written line at the end that no anchor covers.
        broken: the first broken entry; None if there is none.
        box: the identity of the box that wrote the log; empty if no entry names one.
        is_part: only a part of a log was checked, whose end another part continues.
        set_aside: damaged databases and other boxes' logs that the agent has set aside.
    """

    first: int
    head: ChainHead
    has_anchor: bool
    torn_bytes: int
    broken: ChainBreak | None
    box: str = ""
    is_part: bool = False
    set_aside: tuple[str, ...] = ()

    @property
    def is_intact(self) -> bool:
        """True if everything that was checked is intact and nothing is missing at its end."""
        return self.broken is None and (self.has_anchor or self.is_part)

    def describe(self) -> str:
        """Return the result as a few sentences."""
        if self.broken is not None:
            text = f"BROKEN at {self.broken.describe()}."
        else:
            checked = f"entries {self.first} to {self.head.count - 1}, head {self.head.hash}"
            box = f", box {self.box}" if self.box else ""
            text = f"{'Intact' if self.is_intact else 'NOT PROVEN'}: {checked}{box}."
            if not self.has_anchor:
                text += " There is no anchor: entries missing at the end would not show."
        if self.torn_bytes and self.broken is None:
            text += f" A half-written line of {self.torn_bytes} bytes follows."
        if self.set_aside:
            text += f" Set aside: {', '.join(self.set_aside)}."
        return text


def verify(path: Path, *, archived: bool = False, box_id: str = "") -> AuditVerdict:
    """Verify an audit log.

    Args:
        path: the log's folder, a folder of exported files, or one file of either.
        archived: the oldest entries were moved away on purpose; entry 0 may be missing.
        box_id: the identity of the box that must have written it; empty for any box.

    Returns:
        The result.

    Raises:
        OSError: it cannot be read, or is no audit log.
    """
    if path.is_file():
        verifier = _Verifier(box_id, (), is_part=True)
        if path.suffix == ".jsonl":
            return verifier.run([path], None, archived=True)
        return verifier.run([], path, archived=True)
    database = path / DATABASE
    # The anchors are read first, so that a running agent's anchor is never ahead of the entries.
    try:
        anchor = read_anchor_file(path / ANCHOR)
    except ValueError as error:
        return _broken_anchor(ANCHOR, error)
    try:
        segments_anchor = read_anchor(path)
    except ValueError as error:
        return _broken_anchor(SEGMENTS_ANCHOR, error)
    files = list_segments(path)
    is_database = database.exists()
    if not files and not is_database and anchor is None and segments_anchor is None:
        raise FileNotFoundError(f"{path} holds no audit log")
    anchors = (anchor, None if segments_anchor is None else segments_anchor.head)
    # The segments' own anchor covers the end only if no database continues them.
    end = anchor if is_database or anchor else anchors[1]
    verifier = _Verifier(box_id, anchors, end=end, set_aside=_list_set_aside(path))
    return verifier.run(files, database if is_database else None, archived=archived)


def _broken_anchor(file: str, error: ValueError) -> AuditVerdict:
    return AuditVerdict(0, GENESIS, False, 0, ChainBreak(file, 1, str(error)))


def _list_set_aside(folder: Path) -> tuple[str, ...]:
    patterns = (f"{DATABASE}.damaged-*", "other-box-*Z")
    found = (path.name for pattern in patterns for path in folder.glob(pattern))
    return tuple(sorted({name.removesuffix("-wal") for name in found}))


class _Verifier:
    """A single pass over a chain."""

    def __init__(
        self,
        box_id: str,
        anchors: tuple[ChainHead | None, ...],
        *,
        end: ChainHead | None = None,
        is_part: bool = False,
        set_aside: tuple[str, ...] = (),
    ) -> None:
        self._box_id = box_id
        self._box = ""
        self._anchors = {anchor.count: anchor for anchor in anchors if anchor is not None}
        self._end = end
        self._is_part = is_part
        self._set_aside = set_aside
        self._removed: set[ChainHead] = set()  # The places up to which entries say: removed.
        self._first = 0
        self._head = GENESIS
        self._torn_bytes = 0
        self._file = ""
        self._line = 0

    def run(self, files: list[Path], database: Path | None, *, archived: bool) -> AuditVerdict:
        reason = self._read_all(files, database, archived=archived)
        broken = None if reason is None else ChainBreak(self._file, self._line, reason)
        return AuditVerdict(
            self._first,
            self._head,
            self._end is not None,
            self._torn_bytes,
            broken,
            self._box,
            self._is_part,
            self._set_aside,
        )

    def _read_all(self, files: list[Path], database: Path | None, *, archived: bool) -> str | None:
        """Follow the chain through all files; return the first problem."""
        for number, file in enumerate(files):
            is_last = database is None and file == files[-1]
            reason = self._read_segment(file, adopt=archived and number == 0, is_last=is_last)
            if reason is not None:
                return reason
        if database is not None:
            reason = self._read_database(database, adopt=archived and not files)
            if reason is not None:
                return reason
        return self._check_end()

    def _read_segment(self, file: Path, *, adopt: bool, is_last: bool) -> str | None:
        self._file, self._line = file.name, 0
        with file.open("rb") as lines:
            for self._line, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    self._torn_bytes = len(line)
                    return None if is_last else "the line is incomplete"
                if self._line == 1 and (reason := self._check_first_line(file, line, adopt=adopt)):
                    return reason
                if reason := self._follow(line):
                    return reason
        return None

    def _check_first_line(self, file: Path, line: bytes, *, adopt: bool) -> str | None:
        read = parse_entry(line)
        if read is None:
            return None  # `verify_entry` reports it.
        if adopt:
            self._head, self._first = read[0], read[0].count
        named = parse_segment_name(file)
        if named in (None, read[0].count):
            return None
        return f"the file is named for entry {named} and begins with {read[0].count}"

    def _read_database(self, path: Path, *, adopt: bool) -> str | None:
        self._file, self._line = DATABASE, self._head.count
        try:
            with DatabaseReader(path) as reader:
                before, base = self._head, reader.base
                if base != before:
                    self._head, self._first, self._line = base, base.count, base.count
                for seq, line in reader.read():
                    self._line = seq
                    reason = self._follow(line)
                    if reason is None and seq != self._head.count - 1:
                        reason = f"it is entry {self._head.count - 1}"
                    if reason is not None:
                        return reason
        except DatabaseDamaged as error:
            return f"the database is damaged: {error.strerror}"
        if base != before and not adopt and not self._is_part and base not in self._removed:
            self._line = base.count
            if base.count <= before.count:
                return "it does not continue the entry before it"
            missing = f"entries {before.count} to {base.count - 1} are missing before it"
            return f"{missing}, and no entry says that they were removed"
        if self._box_id and not self._box:
            return f"no entry names a box, and the log must be box {self._box_id}'s"
        return None

    def _follow(self, line: bytes) -> str | None:
        """Follow the chain by one entry; return its problem, if any."""
        after = verify_entry(self._head, line)
        if isinstance(after, str):
            return after
        self._head = after
        anchor = self._anchors.get(after.count)
        if anchor is not None and anchor != after:
            return "it is not the entry that the anchor names"
        return self._check_marker(line) if b'"digest":"' in line or b'"box":"' in line else None

    def _check_marker(self, line: bytes) -> str | None:
        fields = parse_fields(line)
        count, digest, box = fields.get("count"), fields.get("digest"), fields.get("box")
        if fields.get("action") in _REMOVALS and isinstance(count, int):
            self._removed.add(ChainHead(count, str(digest)))
        if isinstance(box, str):
            expected = self._box_id or self._box
            if expected and box != expected:
                return f"it was written by box {box}, not by box {expected}"
            self._box = box
        return None

    def _check_end(self) -> str | None:
        end = 0 if self._end is None else self._end.count
        if end > self._head.count:
            if self._file != DATABASE:
                self._line += 0 if self._torn_bytes else 1
            else:
                self._line = self._head.count
            return f"entries {self._head.count} to {end - 1} are missing from here on"
        return "the line is incomplete" if self._torn_bytes and self._end is None else None
