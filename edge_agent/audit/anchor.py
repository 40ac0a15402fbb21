"""The anchor: the end of the chain, stated outside the database after every commit.

A database that was replaced by an older copy, or cut at its end, no longer reaches its anchor. The
anchor is one file of fixed size with two slots. The older slot is overwritten in place and synced,
so that moving the anchor needs no free disk space, and a power cut during the write leaves the
other slot intact.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from edge_agent.core.audit_chain import ChainHead
from edge_agent.system.files import replace_file

_SLOT_BYTES: Final = 4096  # A page: the slots never share a sector, nor a block of a flash disk.
_RECORD_BYTES: Final = 512  # A sector, which disks write whole.
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


def read_anchor_file(path: Path) -> ChainHead | None:
    """Return the end of the chain that an anchor file states; None if there is no file.

    Raises:
        OSError: the file cannot be read.
        ValueError: neither slot is intact.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    found = _newest_slot(data)
    if found is None:
        raise ValueError("the anchor is damaged")
    return found[1]


class AnchorFile:
    """An anchor file that is open for writing, by one process and one thread at a time."""

    def __init__(self, path: Path, head: ChainHead) -> None:
        """Open the file; make it, with this end of the chain, if it is absent or damaged.

        Raises:
            OSError: the file cannot be written.
        """
        self._path = path
        data = path.read_bytes() if path.exists() else b""
        found = _newest_slot(data) if len(data) == 2 * _SLOT_BYTES else None
        if found is None:
            record = _write_record(0, head)
            replace_file(path, record.ljust(2 * _SLOT_BYTES, b"\0"))
        self._generation, self.head = found or (0, head)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._inode = os.fstat(self._descriptor).st_ino

    def move(self, head: ChainHead) -> None:
        """Make another end of the chain durable; needs no free disk space.

        Raises:
            OSError: the disk is failing, or the file was removed. The previous anchor still stands.
        """
        if self._path.stat().st_ino != self._inode:
            raise OSError("the anchor was replaced by another file")
        generation = self._generation + 1
        record = _write_record(generation, head)
        if os.pwrite(self._descriptor, record, generation % 2 * _SLOT_BYTES) != len(record):
            raise OSError("the anchor could not be written whole")
        os.fdatasync(self._descriptor)
        self._generation, self.head = generation, head

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _write_record(generation: int, head: ChainHead) -> bytes:
    body = json.dumps({"generation": generation, "entries": head.count, "hash": head.hash}).encode()
    digest = hashlib.sha256(body).hexdigest().encode()
    return b"".join((body, b" ", digest, b"\n")).ljust(_RECORD_BYTES, b"\0")


def _newest_slot(data: bytes) -> tuple[int, ChainHead] | None:
    slots = (_parse_record(data[start:][:_RECORD_BYTES]) for start in (0, _SLOT_BYTES))
    return max((slot for slot in slots if slot), key=lambda slot: slot[0], default=None)


def _parse_record(record: bytes) -> tuple[int, ChainHead] | None:
    body, _, digest = record.rstrip(b"\0").removesuffix(b"\n").rpartition(b" ")
    if digest != hashlib.sha256(body).hexdigest().encode():
        return None
    with suppress(ValueError, TypeError, KeyError):
        fields = json.loads(body)
        generation, count, digest_text = fields["generation"], fields["entries"], fields["hash"]
        if type(generation) is type(count) is int and _HASH.fullmatch(digest_text):
            return generation, ChainHead(count, digest_text)
    return None
