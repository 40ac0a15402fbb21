"""Power cuts: what a program's files may look like if the power fails at any moment.

A program runs under strace, which records each of its writes, syncs and renames. From that record
the states are rebuilt that a power cut may leave, on the assumptions that file systems promise and
no more: data is on the disk once the file was synced, and a name once its folder was. Of the rest
any subset may be there. A write may be torn between sectors. Names appear in the order in which
they were made, which is what journaling file systems do.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SECTOR_BYTES: Final = 512
_TRACED: Final = (
    "openat,pwrite64,write,ftruncate,fallocate,fsync,fdatasync,rename,unlink,link,mkdir"
)
_NAMED: Final = frozenset({"rename", "unlink", "link", "mkdir", "openat"})
_CALL: Final = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)")
_UNFINISHED: Final = re.compile(r"(\d+) +(\w+\(.*) <unfinished \.\.\.>")
_RESUMED: Final = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)")
_TEXT: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR: Final = re.compile(r"(\d+)<((?:\\x[0-9a-f]{2})*)")


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that changed or synced a file, or a line on standard output."""

    name: str
    paths: tuple[Path, ...] = ()
    descriptor: int = -1
    data: bytes = b""
    offset: int = 0
    is_truncating: bool = False


def record_calls(command: Sequence[str], folder: Path, trace: Path) -> list[Call]:
    """Run a Python program under strace; return what it did to the folder's files.

    Args:
        command: arguments for the interpreter.
        folder: the folder whose files count; it does not exist yet.
        trace: a file for strace's output.
    """
    strace = ["strace", "-f", "-qq", "-y", "-xx", "-s", "10000000", "-e", f"trace={_TRACED}"]
    program = [*strace, "-o", trace, sys.executable, *command]
    subprocess.run(program, check=True, stdout=subprocess.DEVNULL)
    calls = (_parse(line, folder) for line in _complete_lines(trace))
    return [call for call in calls if call is not None]


def _complete_lines(trace: Path) -> Iterator[str]:
    """Yield one line for each call, at the place where it ended."""
    begun: dict[str, str] = {}
    with trace.open() as lines:
        for line in lines:
            if match := _UNFINISHED.match(line):
                begun[match[1]] = match[2]
            elif match := _RESUMED.match(line):
                yield f"{match[1]} {begun.pop(match[1])}{match[2]}"
            else:
                yield line


def _parse(line: str, folder: Path) -> Call | None:
    match = _CALL.match(line)
    if match is None or int(match[4]) < 0:
        return None
    name, arguments, result = match[2], match[3], int(match[4])
    call = (
        _parse_named(name, arguments, result)
        if name in _NAMED
        else _parse_descriptor(name, arguments, result)
    )
    is_relevant = call.name == "output" or any(folder in (path, path.parent) for path in call.paths)
    return call if is_relevant else None


def _parse_named(name: str, arguments: str, result: int) -> Call:
    paths = tuple(Path(_decode(text).decode()) for text in _TEXT.findall(arguments))
    flags = arguments.rsplit('"', 1)[1]
    return Call(name, paths, result, is_truncating="O_TRUNC" in flags)


def _parse_descriptor(name: str, arguments: str, result: int) -> Call:
    found = _DESCRIPTOR.match(arguments)
    if found is None:
        return Call(name)
    descriptor, paths = int(found[1]), (Path(_decode(found[2]).decode()),)
    numbers = [int(number) for number in re.findall(r", (\d+)", arguments.rsplit('"', 1)[-1])]
    if name in ("write", "pwrite64"):
        data = _decode(_TEXT.findall(arguments)[0])[:result]
        if name == "write" and descriptor == 1:
            return Call("output", data=data)
        return Call(name, paths, descriptor, data, numbers[-1])
    size = sum(numbers[-2:]) if name == "fallocate" else numbers[-1] if numbers else 0
    return Call(name, paths, descriptor, offset=size)


def _decode(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


@dataclass(eq=False)
class _File:
    """A file's durable content, and the changes since its last sync: an offset and data, or a size.

    A change without data truncates the file to `offset`, or extends it if it is shorter.
    """

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None, bool]] = field(default_factory=list)
    end: int = 0  # Where the next `write` goes.

    def sync(self) -> None:
        for change in self.pending:
            _apply(self.durable, *change)
        self.pending.clear()

    def survive(self, chance: random.Random, keep: float) -> bytes:
        content = bytearray(self.durable)
        for offset, data, is_cut in self.pending:
            if data is None or keep in (0.0, 1.0):
                if chance.random() < keep:
                    _apply(content, offset, data, is_cut)
                continue
            for start in range(0, len(data), SECTOR_BYTES):
                if chance.random() < keep:
                    part = data[start : start + SECTOR_BYTES]
                    _apply(content, offset + start, part, is_cut)
        return bytes(content)


def _apply(content: bytearray, offset: int, data: bytes | None, is_cut: bool) -> None:
    if data is None:
        if is_cut:
            del content[offset:]
        content.extend(bytes(max(0, offset - len(content))))
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


class SimulatedDisk:
    """A folder on a disk, to which recorded calls are applied one after the other.

    Attributes:
        output: the lines that the program had printed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[str, _File] = {}
        self._durable_names: dict[str, _File] = {}
        self._pending_names: list[dict[str, _File]] = []
        self._open: dict[int, _File] = {}
        self.output = b""

    def apply(self, call: Call) -> None:
        """Apply one call."""
        names = [path.name for path in call.paths]
        if call.name == "output":
            self.output += call.data
        elif call.name == "openat":
            self._apply_open(call)
        elif call.name in ("rename", "link", "unlink"):
            file = self._names[names[0]]
            if call.name != "link":
                del self._names[names[0]]
            if call.name != "unlink":
                self._names[names[1]] = file
            self._pending_names.append(dict(self._names))
        elif call.name in ("fsync", "fdatasync"):
            self._apply_sync(call)
        elif call.name != "mkdir":
            self._apply_change(call)

    def survive(self, target: Path, chance: random.Random, keep: float) -> None:
        """Write the files that a power cut leaves now.

        Args:
            target: an empty folder.
            chance: what decides about each change that is not synced.
            keep: the share of these changes that survive.
        """
        states = [self._durable_names, *self._pending_names]
        last = len(states) - 1
        names = states[0 if keep == 0 else last if keep == 1 else chance.randint(0, last)]
        contents = {file: file.survive(chance, keep) for file in names.values()}
        for name, file in names.items():
            path = target / name
            if name.endswith("-shm"):
                path.write_bytes(chance.randbytes(len(contents[file])))
            else:
                path.write_bytes(contents[file])
            path.chmod(0o600)

    def _apply_open(self, call: Call) -> None:
        name = call.paths[0].name
        if call.paths[0] == self._folder:
            self._open.pop(call.descriptor, None)
            return
        if name not in self._names:
            self._names[name] = _File()
            self._pending_names.append(dict(self._names))
        file = self._names[name]
        if call.is_truncating:
            file.pending.append((0, None, True))
        file.end = 0
        self._open[call.descriptor] = file

    def _apply_sync(self, call: Call) -> None:
        if call.paths[0] == self._folder:
            self._durable_names = dict(self._names)
            self._pending_names.clear()
        elif call.descriptor in self._open:
            self._open[call.descriptor].sync()

    def _apply_change(self, call: Call) -> None:
        file = self._open[call.descriptor]
        if call.name in ("ftruncate", "fallocate"):
            file.pending.append((call.offset, None, call.name == "ftruncate"))
        elif call.name == "write":
            file.pending.append((file.end, call.data, False))
            file.end += len(call.data)
        else:
            file.pending.append((call.offset, call.data, False))
