"""Files that are trusted when read back: kept where nobody else can write, and never half there."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from edge_agent.errors import ConfigInvalid


def private_folder(folder: Path) -> None:
    """Make the folder (mode 0700) or check that it is private.

    Raises:
        ConfigInvalid: the folder cannot be made, is a link, another user's, or open to others.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ConfigInvalid(f"the model cache {folder} cannot be used: {error}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ConfigInvalid(
            f"the model cache {folder} is not a private folder of this user",
            hint="Name another folder, or remove this one and let the agent make it.",
        )


def write_private(path: Path, *parts: bytes) -> None:
    """Write beside, with mode 0600, fsync, rename: the file is the old one or the whole new one.

    Raises:
        OSError: it could not be written; nothing is left behind.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as beside:
        try:
            beside.writelines(parts)
            beside.flush()
            os.fsync(beside.fileno())
            Path(beside.name).replace(path)
        except OSError:
            Path(beside.name).unlink(missing_ok=True)
            raise


def keep_newest(folder: Path, count: int) -> None:
    """Remove all files of a folder but the `count` that were written last."""
    for path in sorted(folder.iterdir(), key=_written_ns)[:-count]:
        path.unlink(missing_ok=True)


def _written_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0  # Another process has just renamed or removed it.
