"""The cursor of the exports: the end of the chain up to which the log was exported.

`hilum-edge audit export` moves it, and the agent reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edge_agent.audit.anchor import AnchorFile, read_anchor_file
from edge_agent.core.audit_chain import GENESIS, ChainHead

EXPORT_CURSOR: Final = "export.cursor"


def read_export_cursor(folder: Path) -> ChainHead | None:
    """Return the end of the chain up to which the log was exported; None if it never was.

    A damaged cursor counts as none: then nothing is removed until the next export.
    """
    try:
        return read_anchor_file(folder / EXPORT_CURSOR)
    except (OSError, ValueError):
        return None


def make_export_cursor(folder: Path) -> None:
    """Make the cursor if it is absent, so that an export needs no room on the log's disk.

    Raises:
        OSError: the disk is full or failing.
    """
    if not (folder / EXPORT_CURSOR).exists():
        AnchorFile(folder / EXPORT_CURSOR, GENESIS).close()


def move_export_cursor(folder: Path, head: ChainHead) -> None:
    """Make another end durable; needs no free disk space after the first time.

    Raises:
        OSError: the disk is failing, or is full the first time.
    """
    cursor = AnchorFile(folder / EXPORT_CURSOR, head)
    try:
        cursor.move(head)
    finally:
        cursor.close()
