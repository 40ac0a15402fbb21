"""Verification of an audit log: find the first broken line.

The chain detects every change by someone who cannot recompute it from there to the end. Someone
who can write to the whole folder can do that; then only a hash kept elsewhere detects it (the
agent's own log has it at every start and stop).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_agent.audit.segments import ANCHOR, Anchor, list_segments, parse_segment_name, read_anchor
from edge_agent.core.audit_chain import GENESIS, ChainHead, parse_entry, verify_entry


@dataclass(frozen=True, slots=True)
class ChainBreak:
    """The first broken line of a log; `line` counts from 1."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """Result of a verification.

    Attributes:
        first: the first entry that was checked; 0 unless older segments were moved away.
        head: the end of the chain after the last valid line.
        has_anchor: whether an anchor covers the end; without, a truncation is not detected.
        torn_bytes: length of a half-written line at the end that no anchor covers. The agent is
            writing it, or the power failed; the next start moves it to a file of its own.
        broken: the first broken line; None if there is none.
    """

    first: int
    head: ChainHead
    has_anchor: bool
    torn_bytes: int
    broken: ChainBreak | None

    @property
    def is_intact(self) -> bool:
        """True if everything that was checked is intact."""
        return self.broken is None

    def describe(self) -> str:
        """Return the result as a sentence or two."""
        if self.broken is not None:
            return f"BROKEN at {self.broken.file}, line {self.broken.line}: {self.broken.reason}."
        text = f"Intact: entries {self.first} to {self.head.count - 1}, head {self.head.hash}."
        if not self.has_anchor:
            text += " There is no anchor: entries missing at the end would not show."
        if self.torn_bytes:
            text += f" A half-written line of {self.torn_bytes} bytes follows."
        return text


def verify(path: Path, *, archived: bool = False) -> AuditVerdict:
    """Verify an audit log.

    Args:
        path: the log's folder, or one segment.
        archived: the oldest segments were moved away on purpose; entry 0 may be missing.

    Returns:
        The result.

    Raises:
        OSError: it cannot be read, or is no audit log.
    """
    if path.is_file():
        return _Verifier(None).run([path], archived=True)
    try:
        # The anchor is read first, so that a running agent's anchor is never ahead of the files.
        anchor = read_anchor(path)
    except ValueError as error:
        return AuditVerdict(0, GENESIS, False, 0, ChainBreak(ANCHOR, 1, str(error)))
    files = list_segments(path)
    if not files and anchor is None:
        raise FileNotFoundError(f"{path} holds no audit log")
    return _Verifier(anchor).run(files, archived=archived)


class _Verifier:
    """A single pass over a chain."""

    def __init__(self, anchor: Anchor | None) -> None:
        self._anchor = anchor
        self._first = 0
        self._head = GENESIS
        self._torn_bytes = 0
        self._file = ""
        self._line = 0

    def run(self, files: list[Path], *, archived: bool) -> AuditVerdict:
        for number, file in enumerate(files):
            is_first, is_last = number == 0, number == len(files) - 1
            if reason := self._read(file, adopt=archived and is_first, is_last=is_last):
                break
        else:
            reason = self._check_end()
        broken = None if reason is None else ChainBreak(self._file, self._line, reason)
        return AuditVerdict(
            self._first, self._head, self._anchor is not None, self._torn_bytes, broken
        )

    def _read(self, file: Path, *, adopt: bool, is_last: bool) -> str | None:
        """Follow the chain through one file; return the problem of its current line, if any."""
        self._file, self._line = file.name, 0
        with file.open("rb") as lines:
            for self._line, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    self._torn_bytes = len(line)
                    return None if is_last else "the line is incomplete"
                if self._line == 1 and (reason := self._check_first_line(file, line, adopt=adopt)):
                    return reason
                after = verify_entry(self._head, line)
                if isinstance(after, str):
                    return after
                self._head = after
                named = self._anchor is not None and self._anchor.head
                if named and named.count == after.count and named != after:
                    return "it is not the entry that the anchor names"
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

    def _check_end(self) -> str | None:
        end = self._head.count if self._anchor is None else self._anchor.head.count
        if end > self._head.count:
            self._line += 0 if self._torn_bytes else 1
            return f"entries {self._head.count} to {end - 1} are missing from here on"
        return "the line is incomplete" if self._torn_bytes and self._anchor is None else None
