"""A reader that misbehaves on command, as a decoder could under the control of hostile bytes.

`DecoderPool` gets it by its import path, and it runs in the worker processes. A file for it is a
command, a line feed and a real image, which is read as usual if the process survives the command.
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


def make_hostile_file(command: str, image: bytes) -> bytes:
    """Return a file that makes the worker execute `command`, then read `image`."""
    return MARK + command.encode() + b"\n" + image


def read(
    data: bytes | memoryview, *, limits: Limits, fit: tuple[int, int] | None
) -> tuple[Radiograph, StudyContext]:
    """Execute the file's command, if it has one, then call `edge_agent.imaging.read_study`."""
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
    """Allocate with malloc, and write to the memory even if there is none."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    while True:
        address = libc.malloc(32 << 20)
        ctypes.memset(address or 0, 1, 32 << 20)


def _bug() -> None:
    raise LookupError("Doe^John")


def _own_error() -> None:
    raise EngineFailed("Of its own kind.", code=ErrorCode.INTERNAL, hint="A hint.")


def _write_file(path: str) -> None:
    with contextlib.suppress(OSError):
        Path(path).write_text("pixels", encoding="ascii")


def _start(path: str) -> None:
    """Create a file as a sign that decoding has started, and wait."""
    Path(path).touch()  # The sandbox allows an empty file, but no writing to it.
    time.sleep(0.5)


def _descriptors() -> list[int]:
    # A process that is not dumpable cannot list /proc/self/fd unless it is root.
    descriptors = []
    for fd in range(256):
        with contextlib.suppress(OSError):
            os.fstat(fd)
            descriptors.append(fd)
    return descriptors


def _open_descriptors() -> None:
    raise EngineFailed(json.dumps(_descriptors()))


def _environment() -> None:
    raise EngineFailed(json.dumps(sorted(os.environ)))


def _channel() -> socket.socket:
    """Return the worker's socket to the agent, found as an attacker's code would find it."""
    for fd in _descriptors():
        with contextlib.suppress(OSError):
            return socket.socket(fileno=os.dup(fd))
    raise LookupError


def _send(packet: bytes) -> None:
    with _channel() as channel:
        channel.send(packet)


def _close_channel() -> None:
    with _channel() as channel:
        channel.shutdown(socket.SHUT_RDWR)
    _hang()


class _PickleBomb:
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
    "own-error": _own_error,
    "sleep": lambda seconds: time.sleep(float(seconds)),
    "start": _start,
    "write": _write_file,
    "descriptors": _open_descriptors,
    "environment": _environment,
    "send": lambda text: _send(text.encode()),
    "send-pickle": lambda path: _send(pickle.dumps(_PickleBomb(path))),
    "close": _close_channel,
}
