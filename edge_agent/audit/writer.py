"""The writer that appends to an audit log's chain and makes it durable; one thread at a time."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

from edge_agent.audit.segments import Anchor, recover, segment_path, write_anchor
from edge_agent.core.audit_chain import AuditEvent, ChainHead, Marker, append_entry
from edge_agent.errors import ConfigInvalid
from edge_agent.system.config_files import read_config_file
from edge_agent.system.files import fsync_folder, replace_file, write_all

_log = logging.getLogger(__name__)
_REQUEST_KEY: Final = "request-id.key"


class ChainWriter:
    """The end of a chain on disk. Holds the folder's lock until it is closed.

    Attributes:
        head: the end of the durable chain.
        request_key: 32 random bytes that belong to this folder.
    """

    def __init__(self, folder: Path, *, segment_bytes: int, now: datetime) -> None:
        """Lock the folder, recover the chain, and record that the log was opened.

        Raises:
            ConfigInvalid: others could change the folder, or another process writes to it.
            OSError: the disk is full or failing, or the folder may not be written to.
        """
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._anchored: ChainHead | None = None
        self._descriptor: int | None = None
        self._lock: int | None = _lock_folder(folder)
        try:
            self.request_key = _load_request_key(folder)
            recovered = recover(folder)
            self.head = recovered.head
            self._open_segment(recovered.segment or segment_path(folder, self.head.count))
            self.append((now, event) for event in (*recovered.markers, AuditEvent(Marker.OPENED)))
            self.move_anchor()
        except BaseException:
            self.close()
            raise
        for marker in recovered.markers:
            _log.warning(
                "audit log recovered", extra={"event": marker.action, "count": marker.count}
            )
        _log.info("audit log opened", extra={"entries": self.head.count, "hash": self.head.hash})

    @property
    def is_anchor_behind(self) -> bool:
        """True if the chain has entries that the anchor does not cover."""
        return self._anchored != self.head

    def append(self, events: Iterable[tuple[datetime, AuditEvent]]) -> None:
        """Write entries and fsync them; all of them are part of the chain, or none.

        Raises:
            OSError: the disk is full or failing; the same call may succeed later.
        """
        descriptor = self._segment_for_writing()
        head, lines = self.head, []
        for utc, event in events:
            line, head = append_entry(head, utc, event)
            lines.append(line)
        data = b"".join(lines)
        write_all(descriptor, data)
        os.fdatasync(descriptor)
        self.head = head
        self._size_bytes += len(data)

    def move_anchor(self) -> None:
        """Make the chain's present end durable as the anchor.

        Raises:
            OSError: the disk is full or failing; the same call may succeed later.
        """
        if self.is_anchor_behind:
            write_anchor(self._folder, Anchor(self.head, self._segment.name, self._size_bytes))
            self._anchored = self.head

    def close(self) -> None:
        """Close the segment and release the folder's lock."""
        for descriptor in (self._descriptor, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._descriptor = self._lock = None

    def _open_segment(self, path: Path) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._segment, self._descriptor = path, descriptor
        self._size_bytes = os.fstat(descriptor).st_size
        fsync_folder(self._folder)
        return descriptor

    def _segment_for_writing(self) -> int:
        descriptor = self._descriptor
        if descriptor is None:
            raise OSError("the audit log is closed")
        facts = os.fstat(descriptor)
        if facts.st_nlink == 0:
            _log.error("a segment of the open audit log was removed", extra={"file": self._segment})
        if facts.st_nlink == 0 or self._size_bytes >= self._segment_bytes:
            return self._open_segment(segment_path(self._folder, self.head.count))
        if facts.st_size != self._size_bytes:
            # An earlier attempt failed halfway. After a failed fsync the kernel forgets which pages
            # were not written, so the lines are written again, not only synced.
            os.ftruncate(descriptor, self._size_bytes)
        return descriptor


def _lock_folder(folder: Path) -> int:
    """Make the folder if absent and lock it for this process; return the lock's descriptor."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o022:
        raise ConfigInvalid(
            f"The audit log's folder {folder} can be changed by others.", hint=f"chmod 700 {folder}"
        )
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigInvalid(
            f"Another process writes to the audit log in {folder}.",
            hint="Give each agent a folder of its own.",
        ) from None
    return descriptor


def _load_request_key(folder: Path) -> bytes:
    path = folder / _REQUEST_KEY
    if not path.exists():
        replace_file(path, secrets.token_bytes(32))
    return read_config_file(path, "audit log's request key", is_private=True)
