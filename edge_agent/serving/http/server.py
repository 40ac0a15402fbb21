"""uvicorn inside the agent's event loop: connection limits set, logging disabled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from edge_agent.errors import ConfigInvalid
from edge_agent.security.tls import Tls, make_uvicorn_tls
from edge_agent.serving.http.middleware import MAX_HEADER_BYTES

# Beyond it uvicorn refuses without an error code. `SecurityMiddleware` refuses at fewer requests.
_MAX_CONNECTIONS: Final = 768
_KEEP_ALIVE_S: Final = 30


class _Embedded(uvicorn.Server):
    """uvicorn without its signal handlers, because the agent decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves an application on one port."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        port: int,
        tls: Tls | None = None,
        drain_timeout_s: float = 20.0,
    ) -> None:
        """Configure the server; `start` listens.

        Args:
            app: the ASGI application.
            host: the address to listen on.
            port: 0 for any free port.
            tls: certificates, if the port uses TLS.
            drain_timeout_s: the seconds that `stop` waits for running requests.
        """
        tls_options: dict[str, Any] = {} if tls is None else dict(make_uvicorn_tls(tls))
        self._server = _Embedded(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                **tls_options,
                limit_concurrency=_MAX_CONNECTIONS,
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(drain_timeout_s)),
            )
        )
        self._address = (host, port)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listen, and return the port.

        Raises:
            ConfigInvalid: the server cannot listen on this port.
        """
        self._task = asyncio.create_task(self._serve(), name="http")
        while not self._server.started:
            if self._task.done():
                await self._task
            await asyncio.sleep(0.005)
        return int(self._server.servers[0].sockets[0].getsockname()[1])

    async def _serve(self) -> None:
        host, port = self._address
        try:
            await self._server.serve()
        except SystemExit:
            # uvicorn exits the process; the agent must not exit with it.
            raise ConfigInvalid(
                f"The agent cannot listen on the HTTP port {port} of {host}.",
                hint="Another program may use it; choose another port.",
            ) from None

    async def stop(self) -> None:
        """Refuse new requests, finish running ones within the drain timeout, and end."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
