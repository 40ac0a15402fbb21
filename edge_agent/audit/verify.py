"""Whether an audit log is whole; the first line that is not.

The chain shows every change by somebody who cannot compute it anew from there to the end. Who can
write all of the folder can do that; then only a hash kept elsewhere (the agent's own log names it
at every start and stop) tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_agent.audit.segments import ANCHOR, Anchor, first_entry, read_anchor, segments
from edge_agent.core.audit_chain import GENESIS, ChainHead, parse_entry, verify_entry


@dataclass(frozen=True, slots=True)
class ChainBreak:
    """The first place where the log is not whole; `line` counts from 1."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """What became of a check.

    Attributes:
        first: the first entry that was looked at; 0 unless older segments were moved away.
        head: where the chain stands at the last line that is whole.
        anchored: whether an anchor vouches for the end: without, a tail cut off does not show.
        torn_bytes: a half-written line at the end that no anchor vouches for. The agent is just
            writing it, or the power went; the next start sets it aside.
        broken: the first broken line; None if there is none.
    """

    first: int
    head: ChainHead
    anchored: bool
    torn_bytes: int
    broken: ChainBreak | None

    @property
    def ok(self) -> bool:
        """Whether all that was looked at is whole."""
        return self.broken is None

    def describe(self) -> str:
        """The verdict in a sentence or two."""
        if self.broken is not None:
            return f"BROKEN at {self.broken.file}, line {self.broken.line}: {self.broken.reason}."
        said = f"Whole: entries {self.first} to {self.head.count - 1}, head {self.head.hash}."
        if not self.anchored:
            said += " There is no anchor: entries missing at the end would not show."
        if self.torn_bytes:
            said += f" A half-written line of {self.torn_bytes} bytes follows."
        return said


def verify(path: Path, *, archived: bool = False) -> AuditVerdict:
    """Check an audit log.

    Args:
        path: the log's folder, or one segment.
        archived: the oldest segments were moved away on purpose; do not ask for entry 0.

    Raises:
        OSError: it cannot be read, or is no audit log.
    """
    if path.is_file():
        return _Check(None).run([path], archived=True)
    try:
        anchor = read_anchor(path)  # First, so that an agent at work cannot be ahead of the files.
    except ValueError as error:
        return AuditVerdict(0, GENESIS, False, 0, ChainBreak(ANCHOR, 1, str(error)))
    files = segments(path)
    if not files and anchor is None:
        raise FileNotFoundError(f"{path} holds no audit log")
    return _Check(anchor).run(files, archived=archived)


class _Check:
    """One walk along a chain."""

    def __init__(self, anchor: Anchor | None) -> None:
        self._anchor = anchor
        self._first = 0
        self._link = GENESIS
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
            self._first, self._link, self._anchor is not None, self._torn_bytes, broken
        )

    def _read(self, file: Path, *, adopt: bool, is_last: bool) -> str | None:
        """Follow the chain through one file; what is wrong with its current line, if anything."""
        self._file, self._line = file.name, 0
        with file.open("rb") as lines:
            for self._line, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    self._torn_bytes = len(line)
                    return None if is_last else "the line is not whole"
                if self._line == 1 and (reason := self._begin(file, line, adopt=adopt)):
                    return reason
                after = verify_entry(self._link, line)
                if isinstance(after, str):
                    return after
                self._link = after
                named = self._anchor is not None and self._anchor.link
                if named and named.count == after.count and named != after:
                    return "it is not the entry that the anchor names"
        return None

    def _begin(self, file: Path, line: bytes, *, adopt: bool) -> str | None:
        read = parse_entry(line)
        if read is None:
            return None  # `verify_entry` says so.
        if adopt:
            self._link, self._first = read[0], read[0].count
        named = first_entry(file)
        if named in (None, read[0].count):
            return None
        return f"the file is named for entry {named} and begins with {read[0].count}"

    def _check_end(self) -> str | None:
        end = self._link.count if self._anchor is None else self._anchor.link.count
        if end > self._link.count:
            self._line += 0 if self._torn_bytes else 1
            return f"entries {self._link.count} to {end - 1} are missing from here on"
        return "the line is not whole" if self._torn_bytes and self._anchor is None else None
