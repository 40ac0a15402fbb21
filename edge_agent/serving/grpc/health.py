"""The standard health service (grpc.health.v1), for load balancers, systemd units and people.

Written out rather than taken from grpcio-health-checking: there `""` starts as SERVING, one
watcher that leaves makes the service forget all others, and a server that stops drops them before
they are told.
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
    """Says whether requests will be answered. All services start as NOT_SERVING."""

    def __init__(self, *services: str) -> None:
        self._status = dict.fromkeys(services, NOT_SERVING)
        self._changed = asyncio.Condition()
        self._ended = False
        self._watches = CallTracker()

    async def set_serving(self, serving: bool) -> None:
        """Tell all who ask from now on, and all who watch."""
        async with self._changed:
            self._status = dict.fromkeys(self._status, SERVING if serving else NOT_SERVING)
            self._changed.notify_all()

    async def end(self) -> None:
        """Tell all who watch that this was the last state; returns when they have been told."""
        async with self._changed:
            self._ended = True
            self._changed.notify_all()
        await self._watches.idle()

    async def Check(  # noqa: N802  # the contract's name
        self, request: health_pb2.HealthCheckRequest, context: ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """The state now; NOT_FOUND for a service that is not here."""
        if request.service not in self._status:
            await context.abort(grpc.StatusCode.NOT_FOUND, "No such service.")
        return health_pb2.HealthCheckResponse(status=self._status[request.service])

    async def Watch(  # noqa: N802  # the contract's name
        self, request: health_pb2.HealthCheckRequest, context: ServicerContext
    ) -> None:
        """The state now and whenever it changes; SERVICE_UNKNOWN for one that is not here."""
        self._watches.count(context)
        told: int | None = None
        while True:
            async with self._changed:
                while (now := self._status.get(request.service, SERVICE_UNKNOWN)) == told:
                    if self._ended:
                        await context.abort(grpc.StatusCode.UNAVAILABLE, "The agent is stopping.")
                    await self._changed.wait()
            await context.write(health_pb2.HealthCheckResponse(status=now))
            told = now
