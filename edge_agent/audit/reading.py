"""Reading of an audit log while the agent writes to it: segments first, then the database.

A reader holds no transaction open between two portions of entries. An open read transaction would
keep the write-ahead log from being emptied, and it would grow.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

from edge_agent.audit.database import (
    APPLICATION_ID,
    DATABASE,
    PAGE_BYTES,
    DatabaseDamaged,
    as_bytes,
    translate_errors,
)
from edge_agent.core.audit_chain import ChainHead

_PORTION: Final = 2000
_TIMEOUT_S: Final = 1.0
_NEEDS_COPY: Final = frozenset(
    {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY}
)


class DatabaseReader:
    """The entries of a database, which another process may be writing.

    Attributes:
        base: the end of the chain before the first entry.
        box: the identity of the box that wrote the log; empty if it has none.
    """

    def __init__(self, path: Path, *, may_copy: bool = True) -> None:
        """Open the database.

        Args:
            path: its main file.
            may_copy: read a copy if the database cannot be read in place. Not in the process that
                writes it: closing the copied file would release the locks that SQLite holds on it.

        Raises:
            DatabaseDamaged: the file is not an audit log's database, or is damaged.
            OSError: the file cannot be read.
        """
        self._resources = contextlib.ExitStack()
        self._may_copy = may_copy
        # SQLite names no reason for a file that cannot be opened, and deletes the write-ahead log
        # of one that has no whole page.
        if path.stat().st_size < PAGE_BYTES:
            raise DatabaseDamaged(errno.EUCLEAN, "the file is truncated")
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        try:
            with translate_errors():
                self._connection = self._connect(path)
                self._check_format()
                self.base, self.box = self._read_meta()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield the entries with their numbers, from a number on, in the order of the chain.

        Raises:
            DatabaseDamaged: the next portion cannot be read.
        """
        while True:
            with translate_errors():
                rows = self._query(
                    "SELECT seq, line FROM entry WHERE seq >= ? ORDER BY seq LIMIT ?",
                    start,
                    _PORTION,
                )
            for seq, line in rows:
                data = as_bytes(line)
                if data.startswith(b"\0"):
                    return  # The first reserved row.
                yield seq, data
            if len(rows) < _PORTION:
                return
            start = rows[-1][0] + 1

    def close(self) -> None:
        """Close the database."""
        self._resources.close()

    def _connect(self, path: Path) -> sqlite3.Connection:
        try:
            return self._open(path)
        except sqlite3.OperationalError as error:
            if not self._may_copy or error.sqlite_errorcode & 0xFF not in _NEEDS_COPY:
                raise
        # The write-ahead log's index cannot be made, because the folder is read-only or the disk is
        # full, or the power failed while the database was made.
        folder = Path(self._resources.enter_context(tempfile.TemporaryDirectory()))
        for suffix in ("", "-wal", "-journal"):
            source = path.with_name(path.name + suffix)
            if source.exists():
                shutil.copyfile(source, folder / f"{DATABASE}{suffix}")
        return self._open(folder / DATABASE, mode="rw")

    def _open(self, path: Path, *, mode: str = "ro") -> sqlite3.Connection:
        uri = f"file:{quote(os.fspath(path.absolute()))}?mode={mode}"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_TIMEOUT_S)
        try:
            with contextlib.closing(connection.cursor()) as cursor:
                cursor.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        except BaseException:
            connection.close()
            raise
        self._resources.callback(connection.close)
        return connection

    def _check_format(self) -> None:
        tables = {str(name) for (name,) in self._query("SELECT name FROM sqlite_schema")}
        ((application,),) = self._query("PRAGMA application_id")
        if application != APPLICATION_ID or tables != {"entry", "meta"}:
            raise DatabaseDamaged(errno.EUCLEAN, "the file is not an audit log's database")

    def _read_meta(self) -> tuple[ChainHead, str]:
        meta = dict(self._query("SELECT name, value FROM meta"))
        try:
            base = ChainHead(int(meta["base_count"]), str(meta["base_hash"]))
        except (KeyError, ValueError, TypeError):
            raise DatabaseDamaged(errno.EUCLEAN, "the start of the chain is missing") from None
        return base, str(meta.get("box", ""))

    def _query(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with contextlib.closing(self._connection.cursor()) as cursor:
            return cursor.execute(statement, parameters).fetchall()
