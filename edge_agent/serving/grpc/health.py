"""The standard health service (grpc.health.v1), for load balancers, systemd units and people.

grpcio-health-checking has a servicer of its own. It is not used because its status of `""` starts
as SERVING, because one watcher that leaves makes it drop all others, and because a server that
stops drops the watchers before they get the last status.
"""

from __future__ import annotations

import asyncio
from typing import Final

import grpc
from grpc_health.v1 import health_pb2

from edge_agent.core.lifecycle import Lifecycle
from edge_agent.serving.grpc.call_tracker import CallTracker, ServicerContext

NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING: Final = health_pb2.HealthCheckResponse.SERVING
SERVICE_UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer:
    """Reports whether a request that is sent now will be answered."""

    def __init__(self, lifecycle: Lifecycle, *services: str) -> None:
        """Build the servicer.

        Args:
            lifecycle: the agent's; all services have its status.
            services: the names that callers may ask for.
        """
        self._lifecycle = lifecycle
        self._services = frozenset(services)
        self._changed = asyncio.Event()
        self._ended = False
        self._watches = CallTracker()
        lifecycle.subscribe(self._wake_watchers)

    async def end(self) -> None:
        """End all watches after the last status; returns when every watcher has its end."""
        self._ended = True
        self._wake_watchers()
        await self._watches.wait_idle()

    async def Check(  # noqa: N802  # the contract's name
        self, request: health_pb2.HealthCheckRequest, context: ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Return the current status; NOT_FOUND for an unknown service."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "No such service.")
        return health_pb2.HealthCheckResponse(status=self._status)

    async def Watch(  # noqa: N802  # the contract's name
        self, request: health_pb2.HealthCheckRequest, context: ServicerContext
    ) -> None:
        """Send the status now and whenever it changes; SERVICE_UNKNOWN for an unknown service."""
        self._watches.track(context)
        is_known = request.service in self._services
        sent: int | None = None
        while True:
            changed = self._changed
            status = self._status if is_known else SERVICE_UNKNOWN
            if status != sent:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                sent = status
            elif self._ended:
                await context.abort(grpc.StatusCode.UNAVAILABLE, self._lifecycle.reason)
            else:
                await changed.wait()

    @property
    def _status(self) -> health_pb2.HealthCheckResponse.ServingStatus:
        return SERVING if self._lifecycle.is_ready else NOT_SERVING

    def _wake_watchers(self) -> None:
        # Each watcher waits for the event that it took before it read the status.
        self._changed.set()
        self._changed = asyncio.Event()
