"""Reading of the files that an operator provides: keys, certificates, roles."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from edge_agent.errors import ConfigInvalid

T = TypeVar("T")
_log = logging.getLogger(__name__)
_MAX_BYTES: Final = 4 << 20
_NOT_PRIVATE: Final = stat.S_IRWXO | stat.S_IWGRP


def read_config_file(path: Path, description: str, *, is_private: bool) -> bytes:
    """Read a file that an operator provides, if others cannot change it.

    No file may be writable for all users. A private file must belong to this user or to root, be
    writable by its owner only, and be unreadable for other users. A group may read it, which is
    how distributions give keys to a service (Debian's `ssl-cert`).

    Args:
        path: the file; symbolic links are followed, because certificate tools create them.
        description: what the file is, for messages: `API key file`.
        is_private: whether it holds secrets.

    Returns:
        The file's content, at most 4 MiB.

    Raises:
        ConfigInvalid: it is missing, unreadable, no regular file, too large or not private enough.
    """
    try:
        # Not blocking: opening a named pipe would otherwise wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ConfigInvalid(
            f"There is no {description} at {path}.", hint="Correct the path in the settings."
        ) from None
    except OSError as error:
        raise ConfigInvalid(
            f"The {description} {path} cannot be read: {error.strerror}.",
            hint=f"Let the agent's user (id {os.geteuid()}) read it.",
        ) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigInvalid(f"The {description} {path} is not a regular file.")
        _require_permissions(status, path, description, is_private=is_private)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(_MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > _MAX_BYTES:
        raise ConfigInvalid(f"The {description} {path} is larger than {_MAX_BYTES} bytes.")
    return data


def _require_permissions(
    status: os.stat_result, path: Path, description: str, *, is_private: bool
) -> None:
    open_to_others = status.st_mode & (_NOT_PRIVATE if is_private else stat.S_IWOTH)
    if open_to_others:
        raise ConfigInvalid(
            f"The {description} {path} can be {'read or ' if is_private else ''}changed by others "
            f"(mode {stat.S_IMODE(status.st_mode):04o}).",
            hint=f"chmod {'600' if is_private else 'o-w'} {path}",
        )
    if is_private and status.st_uid not in (0, os.geteuid()):
        raise ConfigInvalid(
            f"The {description} {path} belongs to another user (id {status.st_uid}).",
            hint=f"chown it to the agent's user (id {os.geteuid()}) or to root.",
        )


def read_stamp(path: Path) -> tuple[int, ...]:
    """Return numbers that change with the file; empty if it is absent."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class ReloadingFile(Generic[T]):
    """A value loaded from a file, and loaded again when the file changes.

    If the changed file is invalid (a mistake while it was edited), the previous value stays in
    force, and the problem is logged and given by `problem`. If the file was removed, the value is
    `gone`: an operator who removes the key file wants no key to be valid.
    """

    def __init__(self, path: Path, load: Callable[[Path], T], *, gone: T) -> None:
        """Load the file for the first time.

        Args:
            path: the file.
            load: the function that loads it; raises ConfigInvalid if the file is invalid.
            gone: the value if the file is removed later.

        Raises:
            ConfigInvalid: the file is invalid; at the start there is no previous value.
        """
        self._path = path
        self._load = load
        self._gone = gone
        self._stamp = read_stamp(self._path)
        self._value = load(path)
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """The reason why the present file is not in force; None if it is."""
        self.get()
        return self._problem

    def get(self) -> T:
        """Return the value in force; costs one `stat` if the file has not changed."""
        stamp = read_stamp(self._path)
        if stamp != self._stamp:
            self._stamp = stamp
            self._reload(stamp)
        return self._value

    def _reload(self, stamp: tuple[int, ...]) -> None:
        if not stamp:
            self._value, self._problem = self._gone, f"{self._path} was removed."
            _log.error(
                "a file was removed; its entries are no longer valid", extra={"file": self._path}
            )
            return
        try:
            self._value, self._problem = self._load(self._path), None
        except ConfigInvalid as error:
            self._problem = error.message
            _log.error(
                "a changed file is invalid; the previous one stays in force",
                extra={"file": self._path, "problem": error.message},
            )
        else:
            _log.info("reloaded a changed file", extra={"file": self._path})
