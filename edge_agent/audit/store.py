"""The chain on disk, open for writing: recovery, commits, the anchor and the reserve."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from edge_agent.audit import segments
from edge_agent.audit.anchor import AnchorFile, read_anchor_file
from edge_agent.audit.database import (
    DATABASE,
    STEP_ROWS,
    AuditDatabase,
    DatabaseDamaged,
    has_frames,
)
from edge_agent.audit.export_cursor import make_export_cursor, read_export_cursor
from edge_agent.audit.retention import RetentionRules, plan_removal
from edge_agent.core.audit_chain import (
    GENESIS,
    AuditEvent,
    ChainHead,
    Marker,
    append_entry,
    parse_entry,
)
from edge_agent.errors import ConfigInvalid
from edge_agent.system.config_files import read_config_file
from edge_agent.system.files import fsync_folder, replace_file

_log = logging.getLogger(__name__)
ANCHOR: Final = "audit.anchor"
LOCK: Final = ".lock"
_REQUEST_KEY: Final = "request-id.key"
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_ROOM_FOR_READERS: Final = 128 << 10
_RESERVE_STEPS: Final = (STEP_ROWS, STEP_ROWS // 10)

TimedEvent = tuple[datetime, AuditEvent]


class ChainStore:
    """The end of a chain on disk. Holds the folder's lock until it is closed.

    Attributes:
        head: the end of the durable chain.
        request_key: 32 random bytes that belong to this folder.
        opening_events: events of the recovery and of the opening, to be recorded first.
    """

    def __init__(
        self,
        folder: Path,
        *,
        box_id: str,
        reserve_entries: int,
        retention: RetentionRules,
        now: datetime,
    ) -> None:
        """Lock the folder and recover the chain.

        Args:
            folder: the log's folder, which is made if absent.
            box_id: the box's identity, 32 hexadecimal digits; empty if it has none.
            reserve_entries: the number of entries for which to reserve space.
            retention: when the oldest entries are removed.
            now: the time, for the names of files that are set aside.

        Raises:
            ConfigInvalid: others could change the folder, or another process writes to it.
            OSError: the disk is full or failing, or the folder may not be written to.
        """
        self._folder = folder
        self._box_id = box_id
        self._reserve_entries = reserve_entries
        self._retention = retention
        self.head = GENESIS
        self._database: AuditDatabase | None = None
        self._anchor: AnchorFile | None = None
        self._is_recovered = False  # `head` is the end of the durable chain.
        self._unrecorded: list[AuditEvent] = []  # Events of recoveries that are to be recorded.
        self._is_suspect = False  # The last commit failed: the database is opened again.
        self._is_damaged = False  # The database is to be set aside.
        self._lock: int | None = _lock_folder(folder)
        try:
            self.request_key = _load_request_key(folder)
            opened = AuditEvent(Marker.OPENED, box=box_id)
            with suppress(OSError):
                make_export_cursor(folder)
            self._recover_if_room(now)
            self.opening_events: tuple[AuditEvent, ...] = (opened,)
            if self._is_recovered:
                self.opening_events = (*self._unrecorded, opened)
                self._unrecorded = []
        except BaseException:
            self.close()
            raise
        for marker in self.opening_events[:-1]:
            _log.warning(
                "audit log recovered", extra={"event": marker.action, "count": marker.count}
            )
        _log.info("audit log opened", extra={"entries": self.head.count, "hash": self.head.hash})

    @property
    def is_anchor_behind(self) -> bool:
        """True if the chain has entries that the anchor does not cover."""
        return self._anchor is None or self._anchor.head != self.head

    @property
    def reserved(self) -> int:
        """The number of entries for which space is reserved."""
        return 0 if self._database is None else self._database.reserved

    @property
    def exported(self) -> int:
        """The number of entries before the end of the last export that an entry states."""
        return 0 if self._database is None else self._database.exported

    @property
    def size_bytes(self) -> int:
        """The size of the database's main file."""
        with suppress(OSError):
            return (self._folder / DATABASE).stat().st_size
        return 0

    @property
    def is_reserve_short(self) -> bool:
        """True if space for another step of entries is to be reserved."""
        return self.reserved + STEP_ROWS <= self._reserve_entries

    def append(self, events: Sequence[TimedEvent]) -> int:
        """Write entries and make them durable: all of them, or as many as have reserved space.

        Returns:
            The number of events that are entries now.

        Raises:
            OSError: the disk is full or failing; the same call may succeed later.
        """
        now, _ = events[0]
        database = self._usable_database(now)
        try:
            count = self._reserve_rows(database, len(events))
        except OSError:
            # On a full disk the rows of entries that are due for removal can be used again.
            if self._remove_step(database, now) is None:
                raise
            count = self._reserve_rows(database, len(events))
        written = events[:count]
        self._commit(database, written)
        return len(written)

    def move_anchor(self) -> None:
        """Make the chain's present end durable as the anchor.

        Raises:
            OSError: the disk is failing; the same call may succeed later.
        """
        if not self.is_anchor_behind:
            return
        if self._anchor is None:
            self._anchor = AnchorFile(self._folder / ANCHOR, self.head)
        try:
            self._anchor.move(self.head)
        except OSError:
            self._close_anchor()
            raise

    def extend_reserve(self) -> bool:
        """Reserve space for one more step of entries; return whether there was room on the disk."""
        database = self._database
        if database is None or self._is_suspect or self._is_damaged:
            return False
        try:
            database.reserve(STEP_ROWS)
        except OSError as error:
            self._note_failure(error)
            return False
        return True

    def record_export(self, now: datetime) -> None:
        """Append an entry that states an export since the last one that an entry states.

        Raises:
            OSError: the disk is full or failing; the same call may succeed later.
        """
        database, exported = self._database, read_export_cursor(self._folder)
        if database is None or self._is_suspect or exported is None:
            return
        if database.exported < exported.count <= self.head.count:
            self._reserve_rows(database, 1)
            event = AuditEvent(Marker.EXPORTED, count=exported.count, digest=exported.hash)
            self._commit(database, [(now, event)], exported=exported.count)

    def remove_oldest(self, now: datetime) -> bool:
        """Remove one step of the oldest entries, if the rules say so; return whether it did.

        Raises:
            OSError: the disk is failing; the same call may succeed later.
        """
        if self._database is None or self._is_suspect:
            return False
        return self._remove_step(self._database, now) is not None

    def leave_exclusive_mode(self, now: datetime) -> None:
        """Let other processes read the log again, once there is room for what that needs.

        Raises:
            OSError: the disk is failing; the same call may succeed later.
        """
        database = self._database
        if database is None or not database.is_exclusive:
            return
        disk = os.statvfs(self._folder)
        if disk.f_bavail * disk.f_frsize >= _ROOM_FOR_READERS:
            self._is_suspect = True
            self._usable_database(now)

    def close(self) -> None:
        """Close the files and release the folder's lock."""
        self._close_database()
        self._close_anchor()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _remove_step(self, database: AuditDatabase, now: datetime) -> ChainHead | None:
        """Remove one step of the oldest entries, if the rules say so; return the new start."""
        removal = plan_removal(
            database,
            self._retention,
            exported=read_export_cursor(self._folder),
            now=now,
            box_id=self._box_id,
        )
        if removal is None:
            return None
        line, head = append_entry(self.head, now, removal.event)
        try:
            database.remove_before(removal.base, [line])
        except OSError as error:
            self._note_failure(error)
            raise
        self.head = head
        self.move_anchor()
        return removal.base

    def _commit(
        self, database: AuditDatabase, events: Iterable[TimedEvent], *, exported: int = 0
    ) -> None:
        head, lines = self.head, []
        for utc, event in events:
            line, head = append_entry(head, utc, event)
            lines.append(line)
        try:
            box = "" if database.box else self._box_id
            database.append(lines, box=box, exported=exported)
        except OSError as error:
            self._note_failure(error)
            raise
        self.head = head

    def _note_failure(self, error: OSError) -> None:
        """Have the database set aside if it is damaged, and opened again if it may be."""
        self._is_damaged = isinstance(error, DatabaseDamaged)
        self._is_suspect = error.errno not in _NO_ROOM

    def _usable_database(self, now: datetime) -> AuditDatabase:
        """Return the open database; open it again if it failed or if its files were removed."""
        database = self._database
        is_replaced = database is not None and database.is_replaced
        if database is None or is_replaced or self._is_suspect or self._is_damaged:
            if database is not None and is_replaced:
                _log.error("a file of the open audit log was removed")
                with suppress(OSError):
                    database.checkpoint()  # If only the write-ahead log was removed.
            self._close_database()
            database = self._recover(now, known=self.head if self._is_recovered else None)
        while self._unrecorded:
            count = self._reserve_rows(database, len(self._unrecorded))
            self._commit(database, [(now, marker) for marker in self._unrecorded[:count]])
            del self._unrecorded[:count]
        return database

    def _reserve_rows(self, database: AuditDatabase, count: int) -> int:
        """Reserve rows until there are as many; return the number of those that there are.

        Raises:
            OSError: there is none, and no room on the disk for any.
        """
        problem: OSError | None = None
        for step in _RESERVE_STEPS:
            try:
                while database.reserved < count:
                    database.reserve(step)
            except OSError as error:
                problem = error
        if problem is not None and database.reserved == 0:
            raise problem
        return min(count, database.reserved)

    # --- recovery ---

    def _recover_if_room(self, now: datetime) -> None:
        """Recover the chain; on a full disk leave it to the first attempt to write an entry."""
        try:
            self._recover(now, known=None)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            _log.exception("the disk has no room for the audit log's database", exc_info=error)

    def _recover(self, now: datetime, *, known: ChainHead | None) -> AuditDatabase:
        """Open the database, and find the end of the chain; note events to record.

        Only the end is checked; `audit.verify` checks the rest. If entries are missing although
        they were durable, the chain continues from the anchor, so that the gap stays visible.
        """
        durable = known or self._read_anchor()
        if self._is_damaged:
            self._set_aside_damaged(now, durable)
        database: AuditDatabase | None = None
        try:
            database, gap = self._open_database(durable)
        except DatabaseDamaged as error:
            _log.error("the audit log's database is damaged", extra={"reason": str(error)})
            self._set_aside_damaged(now, durable)
        if database is not None and self._box_id not in ("", database.box or self._box_id):
            database.close()
            self._set_aside_other_box(now, database.end)
            database = durable = None
        if database is None:
            self.head, gap = self._find_start(durable)
            database = AuditDatabase(self._folder, self.head)
        self._database = database
        self._is_suspect = self._is_damaged = False
        self._is_recovered = True
        if database.is_exclusive:
            _log.warning(
                "the disk is full: until there is room, only the agent can read the audit log"
            )
        self._unrecorded += gap
        return database

    def _open_database(
        self, durable: ChainHead | None
    ) -> tuple[AuditDatabase | None, list[AuditEvent]]:
        """Open the database and find the chain's end in it; None if there is no database.

        Raises:
            DatabaseDamaged: it cannot be used.
            OSError: the disk is full or failing.
        """
        if not _has_content(self._folder / DATABASE):
            if has_frames(self._folder / f"{DATABASE}-wal"):
                raise DatabaseDamaged(errno.EUCLEAN, "the main file is missing or empty")
            return None, []
        database = AuditDatabase(self._folder, GENESIS)
        if self._box_id not in ("", database.box or self._box_id):
            return database, []
        try:
            self.head, gap = _find_head(database, durable)
        except BaseException:
            database.close()
            raise
        return database, gap

    def _read_anchor(self) -> ChainHead | None:
        try:
            return read_anchor_file(self._folder / ANCHOR)
        except ValueError:
            return None

    def _find_start(self, durable: ChainHead | None) -> tuple[ChainHead, list[AuditEvent]]:
        """Return the end of the chain that a new database continues, and events to record."""
        recovered = segments.recover(self._folder)
        head, markers = recovered.head, list(recovered.markers)
        if durable is not None and durable != head and durable.count >= head.count:
            missing = durable.count - head.count
            return durable, [*markers, AuditEvent(Marker.ENTRIES_MISSING, count=missing)]
        return head, markers

    def _set_aside_damaged(self, now: datetime, durable: ChainHead | None) -> None:
        """Rename the database and its write-ahead log, which needs no room on the disk."""
        name = f"{DATABASE}.damaged-{_timestamp(now)}"
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                (self._folder / f"{DATABASE}{suffix}").rename(self._folder / f"{name}{suffix}")
        (self._folder / f"{DATABASE}-shm").unlink(missing_ok=True)
        fsync_folder(self._folder)
        self._is_damaged = False
        _log.error("the audit log's database was set aside", extra={"file": name})
        count = 0 if durable is None else durable.count
        self._unrecorded.append(AuditEvent(Marker.DAMAGED, count=count))

    def _set_aside_other_box(self, now: datetime, entries: int) -> None:
        """Move another box's log to a folder of its own."""
        aside = self._folder / f"other-box-{_timestamp(now)}"
        aside.mkdir(mode=0o700)
        for path in list(self._folder.iterdir()):
            if path.is_file() and path.name not in (LOCK, _REQUEST_KEY):
                path.rename(aside / path.name)
        fsync_folder(aside)
        fsync_folder(self._folder)
        _log.error("another box's audit log was set aside", extra={"folder": str(aside)})
        self._unrecorded.append(AuditEvent(Marker.OTHER_BOX, count=entries))

    def _close_database(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _close_anchor(self) -> None:
        if self._anchor is not None:
            self._anchor.close()
            self._anchor = None


def _find_head(
    database: AuditDatabase, durable: ChainHead | None
) -> tuple[ChainHead, list[AuditEvent]]:
    """Return the end of the chain in a database, and events of the recovery.

    Args:
        database: the open database; its reserved rows are released if there is a gap before them.
        durable: the end of the chain when it was last known to be durable.

    Raises:
        DatabaseDamaged: the last entry is damaged, or the chain is not the one that is known.
    """
    head = _head_at(database, database.end)
    if durable is None:
        return head, [AuditEvent(Marker.ANCHOR_MISSING)]
    markers = []
    if durable.count > head.count:
        markers.append(AuditEvent(Marker.ENTRIES_MISSING, count=durable.count - head.count))
        head = durable
    elif durable.count >= database.base.count and _head_at(database, durable.count) != durable:
        raise DatabaseDamaged(errno.EUCLEAN, "the chain has other entries than the anchor names")
    if database.first_reserved != head.count:
        database.release(head.count)
    return head, markers


def _head_at(database: AuditDatabase, count: int) -> ChainHead:
    """Return the end of the chain after this many entries."""
    if count == database.base.count:
        return database.base
    line = database.find(count - 1)
    heads = None if line is None else parse_entry(line)
    if heads is None or heads[1].count != count:
        raise DatabaseDamaged(errno.EUCLEAN, f"entry {count - 1} is damaged")
    return heads[1]


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _timestamp(now: datetime) -> str:
    return now.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")


def _lock_folder(folder: Path) -> int:
    """Make the folder if absent and lock it for this process; return the lock's descriptor."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o022:
        raise ConfigInvalid(
            f"The audit log's folder {folder} can be changed by others.", hint=f"chmod 700 {folder}"
        )
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
