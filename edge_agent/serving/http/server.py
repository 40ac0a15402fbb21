"""uvicorn inside the agent's event loop: connection limits set, logging disabled."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from edge_agent.errors import ConfigInvalid
from edge_agent.security.tls import ReloadingTls, make_uvicorn_tls
from edge_agent.serving.http.middleware import MAX_HEADER_BYTES
from edge_agent.serving.http.request_tracker import RequestTracker

# Beyond it uvicorn refuses without an error code. `SecurityMiddleware` refuses at fewer requests.
_MAX_CONNECTIONS: Final = 768
_KEEP_ALIVE_S: Final = 30
_REFUSED_TIMEOUT_S: Final = 1.0
"""For responses to requests that were refused during the drain."""
_CLOSE_TIMEOUT_S: Final = 0.25
"""For a caller's part in closing a TLS connection; an idle one may never do its part."""
_POLL_S: Final = 0.01


class _Embedded(uvicorn.Server):
    """uvicorn without its signal handlers and its drain, because the agent decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002  # uvicorn's signature
        """Stop listening and close all connections; those that stay open are cut.

        uvicorn's own method waits for every connection, also for idle ones.
        """
        for server in self.servers:
            server.close()
        state = self.server_state
        await _wait_until_empty(state.tasks, _REFUSED_TIMEOUT_S)
        for connection in list(state.connections):
            connection.shutdown()
        await _wait_until_empty(state.connections, _CLOSE_TIMEOUT_S)
        for connection in list(state.connections):
            connection.transport.abort()
        for task in state.tasks:
            task.cancel()
        await _wait_until_empty(state.connections, _CLOSE_TIMEOUT_S)

    async def wait_sent(self) -> None:
        """Wait until the kernel has every byte of the responses."""
        while any(  # noqa: ASYNC110  # asyncio has no event for an empty buffer
            _count_unsent(it.transport) for it in self.server_state.connections
        ):
            await asyncio.sleep(_POLL_S)


async def _wait_until_empty(members: set[Any], timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while members:  # noqa: ASYNC110  # uvicorn has no event for it
                await asyncio.sleep(_POLL_S)


def _count_unsent(transport: asyncio.Transport) -> int:
    """Return the number of bytes that a transport has not given to the kernel."""
    # A TLS transport counts the bytes that it has not encrypted; its inner transport the others.
    inner = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    unsent = transport.get_write_buffer_size()
    return unsent + (inner.get_write_buffer_size() if inner is not None else 0)


class HttpServer:
    """Serves an application on one port."""

    def __init__(
        self, app: ASGIApp, *, host: str, port: int, tls: ReloadingTls | None = None
    ) -> None:
        """Configure the server; `start` listens.

        Args:
            app: the ASGI application.
            host: the address to listen on.
            port: 0 for any free port.
            tls: certificates, renewed while it listens, if the port uses TLS.
        """
        tls_options: dict[str, Any] = {} if tls is None else dict(make_uvicorn_tls(tls))
        self._requests = RequestTracker(app)
        self._server = _Embedded(
            uvicorn.Config(
                self._requests,
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
            )
        )
        self._address = (host, port)
        self._port = port
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port; after `start` the one that was chosen."""
        return self._port

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigInvalid: the server cannot listen on this port.
        """
        self._task = asyncio.create_task(self._serve(), name="http")
        while not self._server.started:
            if self._task.done():
                await self._task
            await asyncio.sleep(0.005)
        self._port = int(self._server.servers[0].sockets[0].getsockname()[1])

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

    async def drain(self) -> None:
        """Return when all requests that came before are answered and their responses are sent.

        The server keeps listening; the application refuses new requests meanwhile.
        """
        await self._requests.drain()
        await self._server.wait_sent()

    async def stop(self) -> None:
        """Stop listening and close all connections."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
