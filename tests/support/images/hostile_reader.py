"""A reader for decode workers that misbehaves on command: what hostile bytes might do to a decoder.

Passed to `DecoderPool` by its import path; it runs in the worker processes. A file for it is a
command, a line feed and a real image, which is read as usual if the command leaves it alive.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pickle
import signal
import socket
import time
from pathlib import Path
from typing import Any

from edge_agent.core.radiograph import Radiograph
from edge_agent.core.study_context import StudyContext
from edge_agent.errors import EngineFailed
from edge_agent.imaging import Limits, read_study
from hilum.codes import ErrorCode

PATH = "tests.support.images.hostile_reader:read"
MARK = b"MISBEHAVE "


def misbehaving(command: str, image: bytes) -> bytes:
    """A file that makes the worker obey `command`, then read `image`."""
    return MARK + command.encode() + b"\n" + image


def read(
    data: bytes | memoryview, *, limits: Limits, fit: tuple[int, int] | None
) -> tuple[Radiograph, StudyContext]:
    """As `edge_agent.imaging.read_study`, after obeying the command, if there is one."""
    if bytes(data[: len(MARK)]) == MARK:
        line, _, image = bytes(data).partition(b"\n")
        name, *arguments = line[len(MARK) :].decode().split(" ", 1)
        _COMMANDS[name](*arguments)
        data = image
    return read_study(data, limits=limits, fit=fit)


def _hang() -> None:
    while True:
        pass


def _hang_in_native_code() -> None:
    ctypes.CDLL(None).pause()


def _exit() -> None:
    os._exit(7)


def _segfault() -> None:
    ctypes.string_at(8)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _bomb() -> None:
    held = []
    while True:
        held.append(bytearray(32 << 20))


def _native_bomb() -> None:
    """Allocate as C does, then write to what was not given."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    while True:
        address = libc.malloc(32 << 20)
        ctypes.memset(address or 0, 1, 32 << 20)


def _bug() -> None:
    raise LookupError("Doe^John")


def _ours() -> None:
    raise EngineFailed("Of its own kind.", code=ErrorCode.INTERNAL, hint="A hint.")


def _write_file(path: str) -> None:
    with contextlib.suppress(OSError):
        Path(path).write_text("pixels", encoding="ascii")


def _begin(path: str) -> None:
    """Show that the image is being worked on, and take a while over it."""
    Path(path).touch()  # An empty file may be made; nothing can be written into it.
    time.sleep(0.5)


def _descriptors() -> list[int]:
    # Not from /proc/self/fd, which a process that may not be dumped cannot list unless it is root.
    open_ones = []
    for fd in range(256):
        with contextlib.suppress(OSError):
            os.fstat(fd)
            open_ones.append(fd)
    return open_ones


def _open_descriptors() -> None:
    raise EngineFailed(json.dumps(_descriptors()))


def _environment() -> None:
    raise EngineFailed(json.dumps(sorted(os.environ)))


def _channel() -> socket.socket:
    """The worker's socket to the agent, as code that took the worker over would find it."""
    for fd in _descriptors():
        with contextlib.suppress(OSError):
            return socket.socket(fileno=os.dup(fd))
    raise LookupError


def _say(packet: bytes) -> None:
    with _channel() as channel:
        channel.send(packet)


def _close_channel() -> None:
    with _channel() as channel:
        channel.shutdown(socket.SHUT_RDWR)
    _hang()


class _Evil:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.path),)


_COMMANDS: dict[str, Any] = {
    "nothing": lambda: None,
    "hang": _hang,
    "hang-native": _hang_in_native_code,
    "exit": _exit,
    "segfault": _segfault,
    "kill": _kill,
    "bomb": _bomb,
    "native-bomb": _native_bomb,
    "bug": _bug,
    "ours": _ours,
    "sleep": lambda seconds: time.sleep(float(seconds)),
    "begin": _begin,
    "write": _write_file,
    "descriptors": _open_descriptors,
    "environment": _environment,
    "say": lambda text: _say(text.encode()),
    "say-pickle": lambda path: _say(pickle.dumps(_Evil(path))),
    "close": _close_channel,
}
