"""The main module of an engine's process; `engines.engine_process` starts it.

The priority is lowered before a library is imported that starts threads, because a thread inherits
the priority of the thread that starts it.
"""

from __future__ import annotations

import os
import pkgutil
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Final

from edge_agent.system.processes import (
    be_killed_first_without_memory,
    die_with_parent,
    run_at_idle_priority,
)

_NICENESS: Final = 5


def main() -> None:
    """Answer the agent's requests until it closes the channel."""
    channel_fd, agent_pid, priority, serve = sys.argv[1:]
    die_with_parent(int(agent_pid))
    be_killed_first_without_memory()
    if priority == "idle":
        run_at_idle_priority()
    else:
        os.nice(_NICENESS)
    channel: Connection[bytes, bytes] = Connection(int(channel_fd))
    with suppress(EOFError, ConnectionError):
        pkgutil.resolve_name(serve)(channel)
    os._exit(0)  # Freeing a compiled model takes time that is not worth waiting for.


if __name__ == "__main__":
    main()
