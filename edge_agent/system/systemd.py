"""Messages to systemd about the state of a service (sd_notify(3)), without its library."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from typing import Final, Self

_log = logging.getLogger(__name__)
_SEND_TIMEOUT_S: Final = 0.5
_ONE_LINE: Final = str.maketrans("\r\n\0", "   ")


class ServiceManager:
    """The service manager that started this process; without one, nothing is sent.

    A message that cannot be sent is logged once, because no service depends on it.
    """

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        """Create the manager's client.

        Args:
            address: the path of its datagram socket; an abstract one begins with `@`. Empty for no
                manager.
            watchdog_s: the manager restarts the service if it gets no sign of life for so long;
                None if it expects none.
        """
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._has_failed = False
        self.watchdog_s = watchdog_s

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Return the manager that the environment names (NOTIFY_SOCKET, WATCHDOG_USEC)."""
        address = environment.get("NOTIFY_SOCKET", "")
        # A path is absolute; `vsock:` is for virtual machines, whose system's manager is meant.
        if not address.startswith(("/", "@")):
            return cls()
        return cls(address, _read_watchdog_s(environment))

    @property
    def is_present(self) -> bool:
        """True if a service manager is to get messages."""
        return bool(self._address)

    def notify(self, **fields: object) -> None:
        """Send fields in one message, such as `READY=1`; see sd_notify(3) for their meanings."""
        if not self._address:
            return
        lines = [f"{name}={str(value).translate(_ONE_LINE)}" for name, value in fields.items()]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_SEND_TIMEOUT_S)
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if not self._has_failed:
                _log.error("systemd cannot be notified", extra={"error": error.strerror})
            self._has_failed = True


def _read_watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Return the watchdog's time-out if it is meant for this process."""
    interval_us = environment.get("WATCHDOG_USEC", "")
    process = environment.get("WATCHDOG_PID", "")
    if not interval_us.isdecimal() or (process and process != str(os.getpid())):
        return None
    return int(interval_us) / 1e6 or None
