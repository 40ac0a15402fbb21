"""Restrictions that a decoder process places on itself. Linux only; no seccomp filter yet."""

from __future__ import annotations

import resource
import signal
from pathlib import Path
from typing import Final

from edge_agent.system.processes import set_process_attribute

# linux/prctl.h
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38

_MAX_OPEN_FILES: Final = 64
_OOM_SCORE: Final = "500"


def ignore_stop_signals() -> None:
    """Ignore the signals that terminals and service managers send to a whole process group.

    The agent finishes the requests in flight first; the decoder processes end when it closes its
    end of their channel.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)


def drop_privileges() -> None:
    """Forbid new privileges, core dumps (they would hold an image), tracing and writing of files.

    Under memory pressure the kernel kills this process before the agent.
    """
    Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE, encoding="ascii")
    set_process_attribute(_PR_SET_NO_NEW_PRIVS, 1)
    set_process_attribute(_PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_OPEN_FILES, _MAX_OPEN_FILES))


def limit_memory(more_bytes: int) -> None:
    """Allow this much address space beyond what is mapped now.

    RLIMIT_AS rather than RLIMIT_DATA, because it counts shared mappings too. The bound starts from
    the present size, so it does not depend on how much the libraries have mapped.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    bound = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
