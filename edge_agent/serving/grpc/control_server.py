"""The gRPC server on a socket of the state folder, for programs of the agent's own user."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

import grpc

from edge_agent.errors import ConfigInvalid
from edge_agent.serving.grpc.access import GrpcAccessControl
from edge_agent.serving.grpc.interceptor import AuthInterceptor
from edge_agent.serving.grpc.model_control import ModelControlServicer
from hilum.v1 import model_control_pb2_grpc

MAX_SOCKET_PATH: Final = 107
"""Bytes of a Unix socket's path (unix(7))."""

_log = logging.getLogger(__name__)


class ControlServer:
    """Serves `hilum.v1.ModelControl` on a Unix socket.

    The permissions of the socket and its folder decide who may connect. A path that is too long for
    a socket is logged, and the agent works without it.
    """

    def __init__(
        self, control: ModelControlServicer, access: GrpcAccessControl, socket: Path
    ) -> None:
        """Create the server, which needs a running event loop.

        Args:
            control: carries out the calls.
            access: logs the calls.
            socket: the socket's path, in a private folder.
        """
        self._socket = socket
        server = grpc.aio.server(interceptors=[AuthInterceptor(access)])
        model_control_pb2_grpc.add_ModelControlServicer_to_server(control, server)
        self._server: grpc.aio.Server | None = server

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigInvalid: the socket cannot be made.
        """
        if len(bytes(self._socket)) > MAX_SOCKET_PATH:
            _log.warning(
                "the state folder's path is too long for a socket; models cannot be changed here",
                extra={"socket": self._socket},
            )
            return
        if self._server is None:
            raise RuntimeError("the server has been stopped")
        try:
            # A killed agent leaves its socket behind. The audit log's lock excludes a second agent.
            await asyncio.to_thread(self._socket.unlink, missing_ok=True)
            self._server.add_insecure_port(f"unix:{self._socket}")
            self._socket.chmod(0o600)
        except (OSError, RuntimeError) as error:
            raise ConfigInvalid(
                f"The agent cannot listen on its socket {self._socket}: {error}.",
                hint="Give the agent's user the state folder, and remove what is in the way.",
            ) from None
        await self._server.start()

    async def stop(self) -> None:
        """Stop listening and cancel what is left. A second call does nothing."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)
            await asyncio.to_thread(self._socket.unlink, missing_ok=True)
