"""The layout of the state folder: what must outlive a restart of the agent.

| name | content |
|---|---|
| `audit/` | the log of every access, if the settings name no other folder |
| `slots/a`, `slots/b` | two places for a bundle; one is active |
| `tuf/` | verified metadata of releases |
| `update.db` | the state of an update, on disk before each of its steps |
| `outbox.db` | telemetry that the fleet server has not acknowledged |
| `agent.sock` | the socket through which `hilum-edge` talks to the running agent |
| `box-id` | the identity of this installation: 32 hexadecimal digits, made once |
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from edge_agent.errors import ConfigInvalid
from edge_agent.system.files import fsync_folder, write_all

_BOX_ID: Final = re.compile(rb"[0-9a-f]{32}\n?", re.ASCII)
_OPEN_TO_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class StateFolder:
    """A state folder that exists, is private to this user, and has its subfolders."""

    path: Path
    box_id: str

    @classmethod
    def open(cls, path: Path) -> Self:
        """Check the folder, and make what is missing.

        Args:
            path: the folder; its parents are made if absent.

        Returns:
            The folder with the box's id, which is made at the first start.

        Raises:
            ConfigInvalid: a folder or the id cannot be made, is a link, another user's or open to
                others, or the id is damaged. The hint is the command that mends it.
        """
        folders = [path, path / "audit", path / "slots", path / "slots/a", path / "slots/b"]
        for folder in (*folders, path / "tuf"):
            _make_private(folder)
        return cls(path, _load_box_id(path / "box-id"))

    @property
    def audit(self) -> Path:
        """The folder of the audit log."""
        return self.path / "audit"

    @property
    def slots(self) -> dict[str, Path]:
        """The folders of the two slots, by name."""
        return {name: self.path / "slots" / name for name in ("a", "b")}

    @property
    def tuf(self) -> Path:
        """The folder of the releases' metadata."""
        return self.path / "tuf"

    @property
    def update_db(self) -> Path:
        """The database of updates; it may be absent."""
        return self.path / "update.db"

    @property
    def outbox_db(self) -> Path:
        """The database of telemetry; it may be absent."""
        return self.path / "outbox.db"

    @property
    def socket(self) -> Path:
        """The running agent's socket; it may be absent."""
        return self.path / "agent.sock"


def _make_private(folder: Path) -> None:
    """Make a folder with mode 0700, or check that an existing one is private to this user."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except FileExistsError:
        raise ConfigInvalid(
            f"The state folder {folder} is a file, or a link that leads nowhere.",
            hint=f"mv {folder} {folder}.old",
        ) from None
    except OSError as error:
        raise ConfigInvalid(
            f"The state folder {folder} cannot be made: {error.strerror}.",
            hint=f"sudo install -d -m 700 -o {os.geteuid()} {folder}",
        ) from None
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigInvalid(
            f"The state folder {folder} is a link, which others could lead elsewhere.",
            hint=f"Set state_dir to {folder.resolve()}.",
        )
    _check_private(folder, status, "state folder", 0o700)


def _check_private(path: Path, status: os.stat_result, description: str, mode: int) -> None:
    if status.st_uid != os.geteuid():
        raise ConfigInvalid(
            f"The {description} {path} belongs to another user (id {status.st_uid}).",
            hint=f"sudo chown {os.geteuid()} {path}",
        )
    if status.st_mode & _OPEN_TO_OTHERS:
        raise ConfigInvalid(
            f"The {description} {path} is open to other users "
            f"(mode {stat.S_IMODE(status.st_mode):04o}).",
            hint=f"chmod {mode:o} {path}",
        )


def _load_box_id(path: Path) -> str:
    """Return the box's id; make it if it is absent."""
    try:
        if not os.path.lexists(path):
            _make_box_id(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            _check_private(path, os.fstat(descriptor), "box's id", 0o600)
            data = os.read(descriptor, 64)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigInvalid(
            f"The box's id {path} cannot be made or read: {error.strerror}.",
            hint=f"Make room on the disk, and give the file to the agent: "
            f"sudo chown {os.geteuid()} {path}",
        ) from None
    if not _BOX_ID.fullmatch(data):
        raise ConfigInvalid(
            f"The box's id {path} is damaged: it should be 32 hexadecimal digits.",
            hint=f"Restore it from a backup; or give this box a new identity: rm {path}",
        )
    return data.decode().strip()


def _make_box_id(path: Path) -> None:
    """Write a random id, which is complete or absent after a power cut."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(descriptor, f"{secrets.token_hex(16)}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        # Unlike a rename, a link fails if another process has made the id meanwhile.
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)
