"""Reports the agent's life cycle to systemd: ready, status, stopping, and time to load a model."""

from __future__ import annotations

import asyncio
from typing import Final

from edge_agent.app.services import BackgroundTask
from edge_agent.core.lifecycle import Lifecycle
from edge_agent.system.systemd import ServiceManager

EXTENSION_S: Final = 60.0
"""systemd waits so long for the next message while a model is loaded; measuring takes minutes."""
_INTERVAL_S: Final = EXTENSION_S / 4
_CLOSE_S: Final = 10.0
"""For closing everything after the drain."""


class SystemdReporter(BackgroundTask):
    """A service that follows the life cycle. `READY=1` is sent when the agent first serves."""

    def __init__(
        self, manager: ServiceManager, lifecycle: Lifecycle, *, drain_timeout_s: float
    ) -> None:
        """Create the service.

        Args:
            manager: the service manager.
            lifecycle: the agent's.
            drain_timeout_s: the longest time that a drain takes.
        """
        super().__init__(self._extend_start, "systemd")
        self._manager = manager
        self._lifecycle = lifecycle
        self._stop_s = drain_timeout_s + _CLOSE_S
        self._is_ready_sent = False
        self._is_stopping_sent = False

    async def start(self) -> None:
        """Report the present state, and every change from now on."""
        self._lifecycle.subscribe(self._report)
        await super().start()

    def _report(self) -> None:
        lifecycle = self._lifecycle
        self._manager.notify(STATUS=lifecycle.reason or "The agent is serving.")
        if lifecycle.is_ready and not self._is_ready_sent:
            self._is_ready_sent = True
            self._manager.notify(READY=1)
        if lifecycle.is_draining and not self._is_stopping_sent:
            self._is_stopping_sent = True
            self._manager.notify(STOPPING=1, EXTEND_TIMEOUT_USEC=round(self._stop_s * 1e6))

    async def _extend_start(self) -> None:
        while self._lifecycle.is_starting:
            self._manager.notify(EXTEND_TIMEOUT_USEC=round(EXTENSION_S * 1e6))
            await asyncio.sleep(_INTERVAL_S)
