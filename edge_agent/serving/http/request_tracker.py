"""Counts the requests whose response is not complete, so that a stop can wait for them."""

from __future__ import annotations

import asyncio

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RequestTracker:
    """ASGI middleware that counts open requests.

    A request is counted from its headers to the end of its response. Requests that come during the
    drain are not counted, so that callers who try again do not prolong it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open = 0
        self._is_draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def send_or_close(message: Message) -> None:
            if self._is_draining and message["type"] == "http.response.start":
                # The caller's next request is for another agent.
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        if self._is_draining:
            await self._app(scope, receive, send_or_close)
            return
        self._open += 1
        self._idle.clear()
        try:
            await self._app(scope, receive, send_or_close)
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()

    async def drain(self) -> None:
        """Count no further requests, and return when those that came before are answered."""
        self._is_draining = True
        await self._idle.wait()
