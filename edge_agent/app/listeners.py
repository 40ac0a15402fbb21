"""Builds the two listeners, gRPC and HTTP, from the settings and the parts that they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from edge_agent.app.security import ListenerSecurity
from edge_agent.config import Settings
from edge_agent.core.lifecycle import Lifecycle
from edge_agent.decoding.decoder import Decoder
from edge_agent.security.authentication import LocalAuthenticator
from edge_agent.security.tls import ReloadingTls
from edge_agent.serving.detection import DetectionService
from edge_agent.serving.grpc.access import GrpcAccessControl
from edge_agent.serving.grpc.health import HealthServicer
from edge_agent.serving.grpc.model_control import ModelControlServicer
from edge_agent.serving.grpc.server import GrpcServer
from edge_agent.serving.grpc.servicer import DetectorServicer
from edge_agent.serving.http.access import HttpAccessControl
from edge_agent.serving.http.app import create_http_app
from edge_agent.serving.http.converters import to_model_info
from edge_agent.serving.http.endpoints import HttpLimits
from edge_agent.serving.http.server import HttpServer
from edge_agent.serving.metrics import AgentMetrics, Transport
from edge_agent.serving.render import Renderer


class AccessControls:
    """The access control of each listener; both write to one audit log."""

    def __init__(self, security: ListenerSecurity, metrics: AgentMetrics) -> None:
        self.grpc = GrpcAccessControl(
            security.grpc, security.audit, partial(metrics.count_request, Transport.GRPC)
        )
        self.http = HttpAccessControl(
            security.http, security.audit, partial(metrics.count_request, Transport.HTTP)
        )
        self.socket = GrpcAccessControl(
            LocalAuthenticator(), security.audit, partial(metrics.count_request, Transport.GRPC)
        )

    def record_abandoned(self) -> None:
        """Log every running access as `not_ready`, before the process exits without waiting."""
        for access in (self.grpc, self.http, self.socket):
            access.record_abandoned()


def make_grpc_server(
    settings: Settings,
    tls: ReloadingTls | None,
    *,
    access: GrpcAccessControl,
    lifecycle: Lifecycle,
    get_detection: Callable[[], DetectionService],
    health: HealthServicer,
    control: ModelControlServicer,
) -> GrpcServer:
    """Build the gRPC server, which does not listen yet.

    Args:
        settings: the address and the limits.
        tls: the server's certificate; None for plain text.
        access: decides who may call which method.
        lifecycle: the agent's.
        get_detection: returns the detection service to use now; raises NotReady if there is none.
        health: answers health checks.
        control: changes the models.
    """
    detector = DetectorServicer(
        get_detection, access, lifecycle, stream_concurrency=settings.grpc.stream_concurrency
    )
    return GrpcServer(
        detector,
        health,
        control,
        access,
        address=settings.grpc.address,
        max_image_bytes=settings.limits.max_image_bytes,
        tls=tls,
    )


def make_http_server(
    settings: Settings,
    security: ListenerSecurity,
    *,
    access: HttpAccessControl,
    lifecycle: Lifecycle,
    get_detection: Callable[[], DetectionService],
    decoder: Decoder,
    render_metrics: Callable[[], bytes],
) -> HttpServer:
    """Build the HTTP server, which does not listen yet.

    Args:
        settings: the address and the limits.
        security: TLS and the hosts that requests may name.
        access: authorizes each request.
        lifecycle: the agent's.
        get_detection: returns the detection service to use now; raises NotReady if there is none.
        decoder: decodes the images that are drawn.
        render_metrics: returns all metrics in Prometheus' text format.
    """
    renderer = Renderer(decoder)

    def get_renderer() -> Renderer:
        get_detection()
        return renderer

    app = create_http_app(
        get_service=get_detection,
        renderer=get_renderer,
        model_info=lambda name: to_model_info(get_detection().host.find(name).model),
        lifecycle=lifecycle,
        metrics=render_metrics,
        access=access,
        trusted_hosts=security.trusted_hosts,
        limits=_http_limits(settings),
    )
    return HttpServer(app, host=settings.http.host, port=settings.http.port, tls=security.tls)


def _http_limits(settings: Settings) -> HttpLimits:
    """Return HTTP's limits. A single batch must not fill the queue that its own images wait in."""
    limits = HttpLimits(max_image_bytes=settings.limits.max_image_bytes)
    batch_concurrency = min(limits.batch_concurrency, settings.limits.queue_size)
    return replace(limits, batch_concurrency=batch_concurrency)
