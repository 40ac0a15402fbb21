"""A process and all that it has started, and the memory they hold, as the kernel tells it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_PAGE_KB: Final = os.sysconf("SC_PAGE_SIZE") // 1024


def family(pid: int) -> list[int]:
    """The process, its children, theirs and so on."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            pids = children.read_text(encoding="ascii").split()
        except OSError:  # It has just ended.
            continue
        for child in map(int, pids):
            found += family(child)
    return found


def memory_kb(pid: int) -> int:
    """Proportional set size, so that what processes share counts once; 0 if it has ended.

    A decode worker shows it only to root; to others, what is resident and not shared.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    except PermissionError:
        return _own_resident_kb(pid)
    except (OSError, StopIteration):
        return 0


def _own_resident_kb(pid: int) -> int:
    try:
        _size, resident, shared, *_ = map(
            int, Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
        )
    except OSError:
        return 0
    return (resident - shared) * _PAGE_KB
