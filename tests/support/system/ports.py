"""Ports of this machine."""

from __future__ import annotations

import socket
from contextlib import closing


def free_port() -> int:
    """One that nobody listens on at the moment."""
    with closing(socket.socket()) as it:
        it.bind(("127.0.0.1", 0))
        return int(it.getsockname()[1])
