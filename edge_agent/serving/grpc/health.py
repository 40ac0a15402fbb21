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

from edge_agent.serving.grpc.call_tracker import CallTracker, ServicerContext

NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING: Final = health_pb2.HealthCheckResponse.SERVING
SERVICE_UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer:
    """Reports whether requests will be answered. All services start as NOT_SERVING."""

    def __init__(self, *services: str) -> None:
        self._status = dict.fromkeys(services, NOT_SERVING)
        self._changed = asyncio.Condition()
        self._ended = False
        self._watches = CallTracker()

    async def set_serving(self, serving: bool) -> None:
        """Set the status of all services, and send it to all watchers."""
        async with self._changed:
            self._status = dict.fromkeys(self._status, SERVING if serving else NOT_SERVING)
            self._changed.notify_all()

    async def end(self) -> None:
        """End all watches after the last status; returns when every watcher has its end."""
        async with self._changed:
            self._ended = True
            self._changed.notify_all()
        await self._watches.wait_idle()

    async def Check(  # noqa: N802  # the contract's name
        self, request: health_pb2.HealthCheckRequest, context: ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Return the current status; NOT_FOUND for an unknown service."""
        if request.service not in self._status:
            await context.abort(grpc.StatusCode.NOT_FOUND, "No such service.")
        return health_pb2.HealthCheckResponse(status=self._status[request.service])

    async def Watch(  # noqa: N802  # the contract's name
        self, request: health_pb2.HealthCheckRequest, context: ServicerContext
    ) -> None:
        """Send the status now and whenever it changes; SERVICE_UNKNOWN for an unknown service."""
        self._watches.track(context)
        sent: int | None = None
        while True:
            async with self._changed:
                while (status := self._status.get(request.service, SERVICE_UNKNOWN)) == sent:
                    if self._ended:
                        await context.abort(grpc.StatusCode.UNAVAILABLE, "The agent is stopping.")
                    await self._changed.wait()
            await context.write(health_pb2.HealthCheckResponse(status=status))
            sent = status
