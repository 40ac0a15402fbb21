"""Writing of files that a power cut cannot tear, private folders and file locks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from edge_agent.errors import ConfigInvalid


def replace_file(path: Path, *parts: bytes, mode: int | None = None, fsync: bool = True) -> None:
    """Replace a file's content; readers see all of the old content or all of the new.

    Several threads and processes may replace the same file at a time; the last one wins.

    Args:
        path: the file, in a folder that exists.
        parts: the content, in order.
        mode: the file's permissions, less the umask. None keeps the mode and, where this user may
            set them, the owner and group of the file that is replaced; a new file gets 0600.
        fsync: whether the content is to survive a power cut from now on.

    Raises:
        OSError: the disk is full, or the folder is not writable; the old file is untouched.
    """
    # The thread's id is unique on the machine: two writers never share a temporary file.
    temporary = path.with_name(f".{path.name}.{threading.get_native_id()}.part")
    with _rename_on_success({temporary: path}, fsync=fsync):
        temporary.unlink(missing_ok=True)  # A killed process may have left it.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600 if mode is None else mode)
        try:
            if mode is None:
                with contextlib.suppress(FileNotFoundError):
                    _copy_ownership(path.stat(), descriptor)
            for part in parts:
                write_all(descriptor, part)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def replace_files(folder: Path) -> Iterator[Callable[[str], Path]]:
    """Replace files of a folder together; the folder and its subfolders are made if absent.

    Only one process may write to these files at a time: a temporary file that a killed process
    left behind is overwritten by the next one.

    Yields:
        A function from a file's name in the folder to the temporary path to write it to. When the
        block ends, all files are renamed in the order in which they were named; if the block fails
        (a full disk, an interruption), none is and the old files are untouched.

    Raises:
        OSError: the disk is full, or the folder is not writable.
    """
    temporaries: dict[Path, Path] = {}

    def temporary_path(name: str) -> Path:
        path = folder / name
        temporary = path.with_name(f".{path.name}.part")
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporaries[temporary] = path
        return temporary

    folder.mkdir(parents=True, exist_ok=True)
    with _rename_on_success(temporaries, fsync=True):
        yield temporary_path


@contextlib.contextmanager
def _rename_on_success(temporaries: dict[Path, Path], *, fsync: bool) -> Iterator[None]:
    try:
        yield
        if fsync:
            for temporary in temporaries:
                _fsync(temporary, os.O_RDWR)
        for temporary, path in temporaries.items():
            temporary.replace(path)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
    if fsync:
        for folder in {path.parent for path in temporaries.values()}:
            fsync_folder(folder)


def _copy_ownership(old: os.stat_result, descriptor: int) -> None:
    # Root adding a key must not take the file away from the agent's user.
    with contextlib.suppress(PermissionError):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte; `os.write` may write fewer, and does so before it reports a full disk."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def fsync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut."""
    _fsync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is made if absent; wait while others hold it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def make_private_folder(folder: Path, description: str) -> None:
    """Make a folder with mode 0700, or check that an existing one is private to this user.

    Args:
        folder: the folder; its parents are made if absent.
        description: what the folder is for, for messages: `model cache`.

    Raises:
        ConfigInvalid: the folder cannot be made, is a link, another user's, or open to others.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ConfigInvalid(f"the {description} {folder} cannot be used: {error}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ConfigInvalid(
            f"the {description} {folder} is not a private folder of this user",
            hint="Name another folder, or remove this one and let the agent make it.",
        )


def remove_oldest(folder: Path, *, keep: int) -> None:
    """Remove all files of a folder but the `keep` that were written last."""
    for path in sorted(folder.iterdir(), key=_modified_ns)[:-keep]:
        path.unlink(missing_ok=True)


def _modified_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0  # Another process has just renamed or removed it.
