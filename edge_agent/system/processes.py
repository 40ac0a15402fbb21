"""Processes on Linux: their descendants, the memory that they hold, and how they end."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_LEAST_PRIORITY: Final = 19
_PAGE_KB: Final = os.sysconf("SC_PAGE_SIZE") // 1024
_libc: Final = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends, even while native code hangs.

    Ends the process at once if the parent has ended already.

    Raises:
        OSError: the kernel refuses.
    """
    set_process_attribute(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def set_process_attribute(option: int, value: int) -> None:
    """Call prctl(2).

    Raises:
        OSError: the kernel refuses.
    """
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def run_at_idle_priority() -> None:
    """Give this process only the processor time that nothing else on the machine wants.

    Call it before another thread is started, because only threads that are started later inherit
    it. Input and output have idle priority, too: the kernel derives that from the scheduling policy
    (linux/ioprio.h, task_nice_ioclass). Where the kernel permits no change of the policy, as in
    some sandboxes, the process is niced as far as possible. Neither can be undone without a
    privilege.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        os.nice(_LEAST_PRIORITY)


def be_killed_first_without_memory() -> None:
    """Have the kernel end this process before others when the machine runs out of memory."""
    with suppress(OSError):  # There is no /proc in some sandboxes, and then no such killing.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def cpu_time_s(pid: int) -> float | None:
    """Return the processor time in seconds of all threads of a process; None if it has ended."""
    clock = ctypes.c_int()
    if _libc.clock_getcpuclockid(pid, ctypes.byref(clock)) != 0:
        return None
    try:
        return time.clock_gettime(clock.value)
    except OSError:  # It has ended since.
        return None


def process_tree(pid: int) -> list[int]:
    """Return the pids of a process and of all its descendants, parents first."""
    tree = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            pids = children.read_text(encoding="ascii").split()
        except OSError:  # The process has just ended.
            continue
        for child in map(int, pids):
            tree += process_tree(child)
    return tree


def memory_kb(pid: int) -> int:
    """Return a process's proportional set size in KiB; 0 if it has ended.

    Memory that several processes share is divided among them. The kernel shows a decoder
    process's proportional size to root only; other users get the resident memory that is not
    shared.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    except PermissionError:
        return _unshared_resident_kb(pid)
    except (OSError, StopIteration):
        return 0


def _unshared_resident_kb(pid: int) -> int:
    try:
        _size, resident, shared, *_ = map(
            int, Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
        )
    except OSError:
        return 0
    return (resident - shared) * _PAGE_KB
