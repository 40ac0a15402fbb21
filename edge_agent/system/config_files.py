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


def read_config_file(path: Path, what: str, *, private: bool) -> bytes:
    """Read a settings-like file.

    No file may be writable for everybody. A private file must belong to this user or to root, be
    writable by its owner alone and be out of everybody else's reach; a group may read it, which is
    how distributions hand keys to one service (Debian's `ssl-cert`).

    Args:
        path: where it lies; symbolic links are followed, as certificate tools set them.
        what: what it is, for messages: `the API key file`.
        private: whether it holds secrets.

    Raises:
        ConfigInvalid: it is missing, unreadable, no regular file, too large or not private enough.
    """
    try:
        # Not blocking: a named pipe would otherwise hold up the start for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ConfigInvalid(
            f"There is no {what} at {path}.", hint="Correct the path in the settings."
        ) from None
    except OSError as error:
        raise ConfigInvalid(
            f"The {what} {path} cannot be read: {error.strerror}.",
            hint=f"Let the agent's user (id {os.geteuid()}) read it.",
        ) from None
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise ConfigInvalid(f"The {what} {path} is not a regular file.")
        _require_guarded(facts, path, what, private=private)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(_MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > _MAX_BYTES:
        raise ConfigInvalid(f"The {what} {path} is larger than {_MAX_BYTES} bytes.")
    return data


def _require_guarded(facts: os.stat_result, path: Path, what: str, *, private: bool) -> None:
    open_to_others = facts.st_mode & (_NOT_PRIVATE if private else stat.S_IWOTH)
    if open_to_others:
        raise ConfigInvalid(
            f"The {what} {path} can be {'read or ' if private else ''}changed by others "
            f"(mode {stat.S_IMODE(facts.st_mode):04o}).",
            hint=f"chmod {'600' if private else 'o-w'} {path}",
        )
    if private and facts.st_uid not in (0, os.geteuid()):
        raise ConfigInvalid(
            f"The {what} {path} belongs to another user (id {facts.st_uid}).",
            hint=f"chown it to the agent's user (id {os.geteuid()}) or to root.",
        )


class ReloadingFile(Generic[T]):
    """A file's meaning, read again whenever the file changes.

    A change that cannot be used (a slip while editing by hand) leaves in force what was read
    before, and says so in the log and in `problem`. A file that is gone means `gone`: whoever
    removes the keys wants nobody in.
    """

    def __init__(self, path: Path, load: Callable[[Path], T], *, gone: T) -> None:
        """Read the file for the first time.

        Raises:
            ConfigInvalid: it cannot be used; at the start there is nothing to fall back on.
        """
        self._path = path
        self._load = load
        self._gone = gone
        self._stamp = self._look()
        self._value = load(path)
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """Why what the file says now is not in force; None if it is."""
        self.current()
        return self._problem

    def current(self) -> T:
        """What the file says now; costs one `stat` where nothing changed."""
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            self._reload(stamp)
        return self._value

    def _reload(self, stamp: tuple[int, ...]) -> None:
        if not stamp:
            self._value, self._problem = self._gone, f"{self._path} is gone."
            _log.error("%s is gone; nobody is known by it any more", self._path)
            return
        try:
            self._value, self._problem = self._load(self._path), None
        except ConfigInvalid as error:
            self._problem = error.message
            _log.error("%s What was read before stays in force.", error.message)
        else:
            _log.info("Read %s again", self._path)

    def _look(self) -> tuple[int, ...]:
        try:
            facts = self._path.stat()
        except OSError:
            return ()
        return (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
