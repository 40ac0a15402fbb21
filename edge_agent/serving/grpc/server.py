"""The gRPC server: detection, control of the models, health checks, reflection on one port."""

from __future__ import annotations

from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from edge_agent.errors import ConfigInvalid
from edge_agent.security.tls import ReloadingTls, make_grpc_credentials
from edge_agent.serving.grpc.access import GrpcAccessControl
from edge_agent.serving.grpc.health import HealthServicer
from edge_agent.serving.grpc.interceptor import AuthInterceptor
from edge_agent.serving.grpc.model_control import SERVICE as CONTROL_SERVICE
from edge_agent.serving.grpc.model_control import ModelControlServicer
from edge_agent.serving.grpc.servicer import SERVICE, DetectorServicer
from hilum.v1 import detection_pb2_grpc, model_control_pb2_grpc

ENVELOPE_BYTES: Final = 1 << 16
"""Room in a message for everything but the image."""
_REFUSED_TIMEOUT_S: Final = 0.5
"""For calls that were refused during the drain, and others that are still open after it."""


class GrpcServer:
    """Serves `hilum.v1.Detector`, `hilum.v1.ModelControl`, health checks and reflection.

    Port 0 lets the system choose a free one.
    """

    def __init__(
        self,
        detector: DetectorServicer,
        health: HealthServicer,
        control: ModelControlServicer,
        access: GrpcAccessControl,
        *,
        address: str,
        max_image_bytes: int,
        tls: ReloadingTls | None = None,
    ) -> None:
        """Create the server, which needs a running event loop.

        Args:
            detector: answers detection requests.
            health: answers health checks.
            control: changes the models, for callers of the role `admin`.
            access: decides who may call which method.
            address: `host:port`.
            max_image_bytes: the size of the largest image; larger messages are refused.
            tls: the server's certificate, renewed while it listens; None for plain text.
        """
        self._detector = detector
        self._address = address
        self._port = 0
        self._tls = tls
        server = grpc.aio.server(
            interceptors=[AuthInterceptor(access)],
            options=[
                ("grpc.max_receive_message_length", max_image_bytes + ENVELOPE_BYTES),
                # Without this a second agent could listen on the same port, and the kernel would
                # divide the callers among both.
                ("grpc.so_reuseport", 0),
            ],
        )
        detection_pb2_grpc.add_DetectorServicer_to_server(detector, server)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        model_control_pb2_grpc.add_ModelControlServicer_to_server(control, server)
        health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        names = (SERVICE, CONTROL_SERVICE, health_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        self._server: grpc.aio.Server | None = server

    @property
    def port(self) -> int:
        """The port; 0 before `start`."""
        return self._port

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigInvalid: the address cannot be listened on.
        """
        server = self._server
        if server is None:
            raise RuntimeError("the server has been stopped")
        try:
            if self._tls is None:
                self._port = server.add_insecure_port(self._address)
            else:
                self._port = server.add_secure_port(self._address, make_grpc_credentials(self._tls))
        except RuntimeError:
            raise ConfigInvalid(
                f"The agent cannot listen on {self._address}: "
                "the port is in use, or the address is not this machine's.",
                hint="Stop the program that listens there, or choose another port with --port.",
            ) from None
        await server.start()

    async def drain(self) -> None:
        """End idle streams, and return when all requests that were accepted are answered.

        The agent's life cycle refuses new ones meanwhile; the server keeps listening for them.
        """
        await self._detector.drain()

    async def stop(self) -> None:
        """Stop listening, let refused calls get their status, and cancel what is left.

        A second call does nothing.
        """
        if self._server is not None:
            # gRPC's server must be freed before its event loop is closed.
            server, self._server = self._server, None
            await server.stop(_REFUSED_TIMEOUT_S)
