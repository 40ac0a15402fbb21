"""Memory on Linux: the bytes that can still be allocated, and the most that a process has held."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_MEMINFO: Final = Path("/proc/meminfo")
_OWN_CGROUP: Final = Path("/proc/self/cgroup")
_CGROUPS: Final = Path("/sys/fs/cgroup")


def available_memory_bytes() -> int | None:
    """Return the bytes that this process and its children can allocate without swapping.

    It is the kernel's estimate (proc(5), MemAvailable), or less where a control group limits them.
    None if the kernel has no estimate.
    """
    machine = _read_field(_MEMINFO, "MemAvailable:")
    rooms = [machine, *(_room_in(group) for group in _own_cgroups())]
    return min((room for room in rooms if room is not None), default=None)


def peak_memory_bytes(pid: int) -> int:
    """Return the most bytes of memory that a process has held at once (proc(5), VmHWM).

    Libraries that it shares with other processes are included. 0 if it has ended.
    """
    return _read_field(Path(f"/proc/{pid}/status"), "VmHWM:") or 0


def _own_cgroups() -> list[Path]:
    """Return this process's control group and those around it (cgroups(7), version 2)."""
    try:
        lines = _OWN_CGROUP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    names = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    groups = [_CGROUPS / name for name in names]
    return [each for group in groups for each in (group, *group.parents) if _is_cgroup(each)]


def _is_cgroup(folder: Path) -> bool:
    return folder.is_relative_to(_CGROUPS)


def _room_in(group: Path) -> int | None:
    """Return the bytes up to a control group's limit; None if it has none.

    The page cache of files that were not used recently is counted as room, because the kernel
    frees it first.
    """
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        stat = (group / "memory.stat").read_text(encoding="ascii").split()
        cache = int(stat[stat.index("inactive_file") + 1])
    except (OSError, ValueError):  # There is no such file at the root, and "max" is no limit.
        return None
    return max(0, limit - used + cache)


def _read_field(path: Path, name: str) -> int | None:
    """Return a field of a /proc file in bytes; None if it is absent."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(name)), None)
