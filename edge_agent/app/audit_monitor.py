"""Reports to the agent's life cycle whether accesses can be logged."""

from __future__ import annotations

import asyncio
from typing import Final

from edge_agent.app.services import BackgroundTask
from edge_agent.audit.log import AuditLog
from edge_agent.core.lifecycle import Component, Lifecycle
from edge_agent.errors import AuditUnavailable

INTERVAL_S: Final = 0.2
"""Reading the log's state takes microseconds."""


class AuditMonitor(BackgroundTask):
    """A service that watches the audit log: while it fails, every request would be refused."""

    def __init__(self, audit: AuditLog, lifecycle: Lifecycle) -> None:
        super().__init__(self._watch, "watch audit log")
        self._audit = audit
        self._lifecycle = lifecycle

    async def _watch(self) -> None:
        while True:
            try:
                self._audit.require()
            except AuditUnavailable as error:
                self._lifecycle.fail(Component.AUDIT, error.message)
            else:
                self._lifecycle.recover(Component.AUDIT)
            await asyncio.sleep(INTERVAL_S)
