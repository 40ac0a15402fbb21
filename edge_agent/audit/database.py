"""The audit log's database: entries in rows that are reserved on the disk before they are needed.

One SQLite file in WAL mode with `synchronous=FULL`. A commit overwrites reserved rows and needs no
free disk space, because three things have their blocks on the disk beforehand:

- The rows. `reserve` extends the file with `posix_fallocate`, which fails where a full disk would,
  and only then inserts blank rows of `ROW_BYTES` each, which no entry exceeds. An entry replaces a
  blank row in place. No entry is ever written in any other way.
- The write-ahead log. It is `_WAL_BYTES` long from the start. It is checkpointed long before that
  length, so it never grows. SQLite removes it when the last connection closes; a hard link keeps
  its blocks (`_KEPT_WAL`).
- The index of the write-ahead log (`-shm`), while the database is open. SQLite makes it anew at
  each start. If the disk is full then, the database is opened in SQLite's exclusive mode, which
  holds the index in memory. Other processes cannot read the log meanwhile.

Measured on ext4 and tmpfs; see docs/decisions/0090-audit-log-in-sqlite.md. File systems that write
each change to another place (btrfs, ZFS) need free space for every change and give no such promise.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from edge_agent.core.audit_chain import ChainHead
from edge_agent.system.files import fsync_folder

DATABASE: Final = "audit.db"
ROW_BYTES: Final = 568
"""Length of a reserved row. Seven fill a page of 4096 bytes; the longest entry has about 540."""
STEP_ROWS: Final = 700
"""Rows that are reserved or removed in one transaction: 100 pages, a twentieth of the WAL."""
PAGE_BYTES: Final = 4096
_ROWS_PER_PAGE: Final = 7
_WAL_BYTES: Final = 8 << 20  # 2,036 pages of 4096 bytes, each with a header of 24.
_CHECKPOINT_PAGES: Final = 500
_KEPT_WAL: Final = ".audit.db-wal.kept"
APPLICATION_ID: Final = 0x48415544  # "HAUD"
_FORMAT: Final = 1
_MAGIC: Final = b"SQLite format 3\0"
_WAL_FORMAT: Final = b"\2\2"  # Write and read versions: WAL (SQLite's file format, section 1.3.3).
_WAL_MAGIC: Final = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_BUSY_TIMEOUT_S: Final = 2.0
_PRAGMAS: Final = (
    f"page_size = {PAGE_BYTES}",
    "auto_vacuum = NONE",
    "journal_mode = WAL",
    "synchronous = FULL",
    f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
    "journal_size_limit = -1",  # The write-ahead log keeps its length.
    "secure_delete = OFF",  # Freed pages would be written again, all of them.
    "temp_store = MEMORY",
)
_DAMAGE: Final = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        # All statements are fixed, and the file is writable. So these mean that the header, the
        # schema or the rows are not as they were made.
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_SCHEMA,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
    }
)
_NO_ROOM_FOR_INDEX: Final = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_IOERR_SHMOPEN,
        sqlite3.SQLITE_IOERR_SHMSIZE,
        sqlite3.SQLITE_IOERR_SHMMAP,
    }
)


class DatabaseDamaged(OSError):
    """The file is no database, another program's, or damaged."""


class AuditDatabase:
    """The open database. One process has it open for writing at a time; one thread uses it.

    Attributes:
        base: the end of the chain before the first entry in the database.
        box: the identity of the box whose log it is; empty if none was given yet.
        exported: the number of entries before the end of the last export that an entry states.
        end: the number after that of the last entry.
        reserved: the number of blank rows.
        first_reserved: the number of the first blank row.
        is_exclusive: no other process can read the database, because the disk was full.
    """

    def __init__(self, folder: Path, base: ChainHead) -> None:
        """Open the database; make it if it is absent.

        Args:
            folder: the folder, which the caller has locked.
            base: the end of the chain that a new database continues.

        Raises:
            DatabaseDamaged: the file cannot be used; it is unchanged.
            OSError: the disk is full or failing.
        """
        self._folder = folder
        self._path = folder / DATABASE
        self._wal = folder / f"{DATABASE}-wal"
        self._kept_wal = folder / _KEPT_WAL
        self._connection: sqlite3.Connection | None = None
        self.is_exclusive = False
        self.base, self.box, self.end = base, "", base.count
        self.first_reserved, self.reserved, self.exported = base.count, 0, 0
        self._restore_wal()
        # The descriptor is held while the database is open: closing any descriptor of the file
        # would release the locks that SQLite holds on it (POSIX advisory locks are per process).
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        try:
            self._check_header()
            with translate_errors():
                self._connect()
                self._load()
            self._lengthen_wal()
        except BaseException:
            self._disconnect()
            os.close(self._descriptor)
            raise
        self._inodes = self._find_inodes()

    @property
    def is_replaced(self) -> bool:
        """True if a file of the open database was removed or replaced.

        Raises:
            OSError: the folder is missing.
        """
        return self._find_inodes() != self._inodes

    def append(self, lines: Sequence[bytes], *, box: str = "", exported: int = 0) -> None:
        """Write entries into the first reserved rows and make them durable; all of them, or none.

        Args:
            lines: the entries; at most as many as there are reserved rows.
            box: the identity of the box to store, if it is not stored yet.
            exported: the number of exported entries to store, if it is another one now.

        Raises:
            DatabaseDamaged: the database is damaged, or a row is not blank.
            OSError: the disk is failing; the same call may succeed later.
        """
        first = self.first_reserved
        with self._transaction() as cursor:
            cursor.executemany(
                "UPDATE entry SET line = ?2 WHERE seq = ?1 AND substr(line, 1, 1) = x'00'",
                enumerate(lines, first),
            )
            if cursor.rowcount != len(lines):
                raise DatabaseDamaged(errno.EUCLEAN, "a row of the audit log is not as reserved")
            facts = {"box": box, "exported": exported}
            cursor.executemany(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)",
                [(name, value) for name, value in facts.items() if value],
            )
        self.box, self.exported = box or self.box, exported or self.exported
        self.end = self.first_reserved = first + len(lines)
        self.reserved -= len(lines)

    def reserve(self, count: int) -> None:
        """Reserve rows and their blocks on the disk.

        Args:
            count: the number of rows to add, at most `STEP_ROWS`.

        Raises:
            OSError: there is no room for them on the disk, and nothing has changed; or the disk is
                failing.
        """
        first = self.first_reserved + self.reserved
        with translate_errors():
            free_pages, pages = self._pragma("freelist_count"), self._pragma("page_count")
        new_pages = count // _ROWS_PER_PAGE + 4 - free_pages  # 4: rounding, inner pages of the tree
        if new_pages > 0:
            os.posix_fallocate(self._descriptor, 0, (pages + new_pages) * PAGE_BYTES)
        with self._transaction() as cursor:
            cursor.executemany(
                f"INSERT INTO entry VALUES (?, zeroblob({ROW_BYTES}))",  # noqa: S608  # a constant
                ((seq,) for seq in range(first, first + count)),
            )
        self.reserved += count
        self.checkpoint()

    def release(self, first: int) -> None:
        """Free all reserved rows; the next ones to be reserved begin at this number."""
        with self._transaction() as cursor:
            cursor.execute("DELETE FROM entry WHERE seq >= ?", (self.first_reserved,))
        self.reserved, self.first_reserved = 0, first

    def remove_before(self, base: ChainHead, lines: Sequence[bytes]) -> None:
        """Remove the oldest entries, and append entries that say so, in one transaction.

        Args:
            base: the end of the chain after the last entry to remove.
            lines: the entries to append.

        Raises:
            DatabaseDamaged: the database is damaged.
            OSError: the disk is failing; the same call may succeed later.
        """
        first = self.first_reserved
        with self._transaction() as cursor:
            cursor.execute("DELETE FROM entry WHERE seq < ?", (base.count,))
            cursor.execute("UPDATE meta SET value = ? WHERE name = 'base_count'", (base.count,))
            cursor.execute("UPDATE meta SET value = ? WHERE name = 'base_hash'", (base.hash,))
            # Without a reserved row they take the place of those that were removed.
            cursor.executemany(
                "INSERT OR REPLACE INTO entry VALUES (?, ?)", enumerate(lines, first)
            )
        self.base = base
        self.end = self.first_reserved = first + len(lines)
        self.reserved = max(0, self.reserved - len(lines))

    def checkpoint(self) -> bool:
        """Move committed pages into the main file; return whether all were moved."""
        with translate_errors():
            ((_, pages, moved),) = self._execute("PRAGMA wal_checkpoint(PASSIVE)")
        return bool(pages == moved)

    def find(self, seq: int) -> bytes | None:
        """Return an entry; None if it is not in the database."""
        with translate_errors():
            rows = self._execute("SELECT line FROM entry WHERE seq = ? AND seq < ?", seq, self.end)
        return as_bytes(rows[0][0]) if rows else None

    def close(self) -> None:
        """Close the database and keep the blocks of its write-ahead log."""
        with contextlib.suppress(OSError):
            self._kept_wal.unlink(missing_ok=True)
            os.link(self._wal, self._kept_wal)
        self._disconnect()
        os.close(self._descriptor)
        with contextlib.suppress(OSError):
            self._restore_wal()

    # --- opening ---

    def _restore_wal(self) -> None:
        """Give the kept write-ahead log its name again; its content is in the main file."""
        if not self._kept_wal.exists():
            return
        if self._wal.exists():
            self._kept_wal.unlink()
            return
        descriptor = os.open(self._kept_wal, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, bytes(32), 0)  # Without its header the content is ignored.
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._kept_wal.rename(self._wal)
        fsync_folder(self._folder)

    def _check_header(self) -> None:
        """Refuse a damaged main file before SQLite opens it and deletes the write-ahead log.

        SQLite does so if the main file has no whole page, or does not say that it has such a log.
        """
        journal = self._path.with_name(f"{DATABASE}-journal")
        if has_frames(self._wal) and not journal.exists():
            header = os.pread(self._descriptor, 20, 0)
            size_bytes = os.fstat(self._descriptor).st_size
            if size_bytes < PAGE_BYTES or header[:16] != _MAGIC or header[18:20] != _WAL_FORMAT:
                raise DatabaseDamaged(errno.EUCLEAN, "the header is damaged")

    def _connect(self) -> None:
        try:
            self._open_connection(is_exclusive=False)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode not in _NO_ROOM_FOR_INDEX:
                raise
            self._disconnect()
            self._open_connection(is_exclusive=True)

    def _open_connection(self, *, is_exclusive: bool) -> None:
        self._connection = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, timeout=_BUSY_TIMEOUT_S
        )
        if is_exclusive:
            self._execute("PRAGMA locking_mode = EXCLUSIVE")
        for pragma in _PRAGMAS:
            self._execute(f"PRAGMA {pragma}")
        self._execute("SELECT count(*) FROM sqlite_schema")
        self.is_exclusive = is_exclusive

    def _load(self) -> None:
        tables = {str(name) for (name,) in self._execute("SELECT name FROM sqlite_schema")}
        if not tables:
            self._make_tables(self.base)
        elif tables != {"entry", "meta"} or self._pragma("application_id") != APPLICATION_ID:
            raise DatabaseDamaged(errno.EUCLEAN, "the file is another program's database")
        meta = dict(self._execute("SELECT name, value FROM meta"))
        try:
            self.base = ChainHead(int(meta["base_count"]), str(meta["base_hash"]))
            self.exported = int(meta.get("exported", 0))
        except (KeyError, ValueError, TypeError):
            raise DatabaseDamaged(errno.EUCLEAN, "the start of the chain is missing") from None
        self.box = str(meta.get("box", ""))
        self.end = self._find_end()
        ((first, last),) = self._execute(
            "SELECT min(seq), max(seq) FROM entry WHERE seq >= ?", self.end
        )
        self.first_reserved = self.end if first is None else first
        self.reserved = 0 if last is None else last + 1 - self.first_reserved

    def _make_tables(self, base: ChainHead) -> None:
        with self._transaction() as cursor:
            cursor.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            cursor.execute(f"PRAGMA user_version = {_FORMAT}")
            cursor.execute("CREATE TABLE entry (seq INTEGER PRIMARY KEY, line BLOB NOT NULL)")
            cursor.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID")
            cursor.executemany(
                "INSERT INTO meta VALUES (?, ?)",
                [("base_count", base.count), ("base_hash", base.hash)],
            )
        fsync_folder(self._folder)

    def _find_end(self) -> int:
        """Return the number after that of the last entry: blank rows follow the entries."""
        first, last = self._find_range(0)
        if first is None or last is None:
            return self.base.count
        low, high = first, last + 1
        while low < high:
            middle = (low + high) // 2
            rows = self._execute(
                "SELECT seq, substr(line, 1, 1) FROM entry WHERE seq >= ? ORDER BY seq LIMIT 1",
                middle,
            )
            if not rows or rows[0][1] == b"\0":
                high = middle
            else:
                low = int(rows[0][0]) + 1
        return low

    def _find_range(self, start: int) -> tuple[int | None, int | None]:
        """Return the first and the last row's number, of those from a number on."""
        # One query for both would read every row; each of these reads one.
        ((first, last),) = self._execute(
            "SELECT (SELECT min(seq) FROM entry WHERE seq >= ?1), (SELECT max(seq) FROM entry)",
            start,
        )
        return first, last if first is not None else None

    def _lengthen_wal(self) -> None:
        """Reserve the write-ahead log's blocks. Without room for them, try at the next start."""
        with contextlib.suppress(OSError):
            descriptor = os.open(self._wal, os.O_RDWR | os.O_CLOEXEC)
            try:
                if os.fstat(descriptor).st_size < _WAL_BYTES:
                    os.posix_fallocate(descriptor, 0, _WAL_BYTES)
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)

    # --- SQLite ---

    def _execute(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        # A cursor that is not closed keeps the connection open.
        with contextlib.closing(self._open.cursor()) as cursor:
            return cursor.execute(statement, parameters).fetchall()

    def _pragma(self, name: str) -> int:
        ((value,),) = self._execute(f"PRAGMA {name}")
        return int(value)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        connection = self._open
        with translate_errors(), contextlib.closing(connection.cursor()) as cursor:
            try:
                cursor.execute("BEGIN IMMEDIATE")
                yield cursor
                cursor.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    cursor.execute("ROLLBACK")
                raise

    @property
    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise OSError("the audit log is closed")
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _find_inodes(self) -> tuple[int, ...]:
        self._folder.stat()  # A folder that is missing for a while is no removed file.
        with contextlib.suppress(FileNotFoundError):
            return self._path.stat().st_ino, self._wal.stat().st_ino
        return ()


def has_frames(wal: Path) -> bool:
    """Return whether a write-ahead log has content that SQLite would read (its header's magic)."""
    try:
        with wal.open("rb") as file:
            return file.read(4) in _WAL_MAGIC
    except FileNotFoundError:
        return False


def as_bytes(line: object) -> bytes:
    """Return a row's line, which in a damaged database may be of any type."""
    return line if isinstance(line, bytes) else str(line).encode(errors="replace")


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Raise SQLite's errors as `OSError`, with the reason of a full disk as its number."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in _DAMAGE:
            raise DatabaseDamaged(errno.EUCLEAN, str(error)) from error
        if code == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise OSError(errno.EIO, str(error)) from error
