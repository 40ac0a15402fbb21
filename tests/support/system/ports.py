"""Free TCP ports on loopback."""

from __future__ import annotations

import socket
from contextlib import closing


def free_port() -> int:
    """Return a port on which no process listens at the moment."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
