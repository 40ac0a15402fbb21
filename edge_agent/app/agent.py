"""Connects the agent's parts: servers, decoder, detection service, security and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from functools import partial
from typing import Final

from edge_agent.app.models import (
    ServiceFactory,
    build_decoder,
    load_detection_service,
    load_with_decoder,
)
from edge_agent.app.security import ListenerSecurity, load_security
from edge_agent.audit.log import AuditStatus
from edge_agent.config import Settings, format_address
from edge_agent.core.admission import Admission, AdmissionPolicy, AdmissionStats
from edge_agent.decoding.decoder import SandboxedDecoder
from edge_agent.engines.loader import self_test
from edge_agent.engines.model import LoadedModel
from edge_agent.errors import EngineFailed, NotReady
from edge_agent.serving.detection import DetectionService
from edge_agent.serving.grpc.access import GrpcAccessControl
from edge_agent.serving.grpc.health import HealthServicer
from edge_agent.serving.grpc.server import GrpcServer
from edge_agent.serving.grpc.servicer import SERVICE, DetectorServicer
from edge_agent.serving.http.access import HttpAccessControl
from edge_agent.serving.http.app import create_http_app
from edge_agent.serving.http.converters import to_model_info
from edge_agent.serving.http.endpoints import HttpLimits
from edge_agent.serving.http.server import HttpServer
from edge_agent.serving.metrics import AgentMetrics, MetricSources, Transport
from edge_agent.serving.render import Renderer
from edge_agent.system.malloc import reuse_freed_memory, trim_heap_periodically

HEALTH_END_TIMEOUT_S: Final = 1.0
"""For sending the last state to those who watch the agent's health."""
AUDIT_CLOSE_TIMEOUT_S: Final = 2.0
"""For writing the audit log's last entries after a drain that timed out."""
_LOADING: Final = "The agent is loading its model."
_STOPPING: Final = "The agent is stopping."

_log = logging.getLogger(__name__)


class Agent:
    """A running agent. It listens at once, and serves when its model is loaded and tested."""

    def __init__(self, settings: Settings, load: ServiceFactory = load_detection_service) -> None:
        """Create an agent, which neither listens nor loads yet.

        Args:
            settings: the agent's settings.
            load: loads the model. It runs in a thread.
        """
        self._settings = settings
        self._load = load
        self._decoder = build_decoder(settings)
        self._service: DetectionService | None = None
        self._has_passed_self_test = False
        # Why the agent is not ready; empty if it is. While it stops it still answers what it has
        # accepted, if its model has passed the self-test.
        self._not_ready_reason = _LOADING
        self._loading = asyncio.Lock()
        self._health = HealthServicer("", SERVICE)
        self._metrics = AgentMetrics(self._metric_sources())
        self._security: ListenerSecurity | None = None
        self._access_controls: list[GrpcAccessControl | HttpAccessControl] = []
        self._grpc: GrpcServer | None = None
        self._http: HttpServer | None = None
        self._trimming: asyncio.Task[None] | None = None
        self.port = settings.grpc.port
        self.http_port = settings.http.port

    @property
    def address(self) -> str:
        """Return gRPC's `host:port`. After `start` it has the port that was chosen."""
        return format_address(self._settings.grpc.host, self.port)

    @property
    def page(self) -> str:
        """Return the page's URL; empty if HTTP is not enabled."""
        http = self._settings.http
        scheme = "http" if self._settings.tls.certificate is None else "https"
        return f"{scheme}://{format_address(http.host, self.http_port)}/" if http.enabled else ""

    async def start(self) -> None:
        """Listen. Until `load` has finished, every request is answered with NotReady.

        Raises:
            ConfigInvalid: an address cannot be listened on, a file cannot be used, or other
                machines could use the agent without TLS and a role.
        """
        reuse_freed_memory()
        self._security = security = await asyncio.to_thread(load_security, self._settings)
        if security.tls is not None:
            self._metrics.set_tls_expiry(security.tls.not_after.timestamp())
        try:
            await self._start_grpc(security)
            if self._settings.http.enabled:
                await self._start_http(security)
        except BaseException:
            await self._close()
            raise
        self._trimming = asyncio.create_task(trim_heap_periodically(), name="trim heap")

    async def _start_grpc(self, security: ListenerSecurity) -> None:
        settings = self._settings
        count = partial(self._metrics.count_request, Transport.GRPC)
        access = GrpcAccessControl(security.grpc, security.audit, count)
        self._access_controls.append(access)
        self._grpc = GrpcServer(
            DetectorServicer(
                self._ready_service, access, stream_concurrency=settings.grpc.stream_concurrency
            ),
            self._health,
            access,
            address=settings.grpc.address,
            max_image_bytes=settings.limits.max_image_bytes,
            tls=security.tls,
        )
        self.port = await self._grpc.start()

    async def _start_http(self, security: ListenerSecurity) -> None:
        settings = self._settings
        count = partial(self._metrics.count_request, Transport.HTTP)
        access = HttpAccessControl(security.http, security.audit, count)
        self._access_controls.append(access)
        renderer = Renderer(self._decoder)

        def ready_renderer() -> Renderer:
            self._ready_service()
            return renderer

        app = create_http_app(
            get_service=self._ready_service,
            renderer=ready_renderer,
            model_info=lambda name: to_model_info(self._ready_service().host.find(name).model),
            readiness=lambda: self._not_ready_reason,
            metrics=self._metrics.render,
            access=access,
            trusted_hosts=security.trusted_hosts,
            limits=_http_limits(settings),
        )
        server = HttpServer(
            app,
            host=settings.http.host,
            port=settings.http.port,
            tls=security.tls,
            drain_timeout_s=settings.drain_timeout_s,
        )
        self.http_port = await server.start()
        self._http = server

    async def load(self) -> None:
        """Load the model and run its self-test; serve if the test passes.

        Raises:
            OperatorError: the model cannot be loaded.
        """
        async with self._loading:
            try:
                self._service = await load_with_decoder(self._settings, self._load, self._decoder)
            except EngineFailed as error:
                await self._apply_self_test(error.message)
                return
            model = self._service.model
            self._service.observers.add(self._metrics)
            self._metrics.set_model(model.digest, model.engine.name, model.variant.name)
            report = await asyncio.to_thread(self_test, model)
            await self._apply_self_test(report.problem)
            if not self._not_ready_reason:
                self._log_serving(model)

    async def recheck(self) -> None:
        """Run the self-test again beside the requests in flight; serve or stop serving by it.

        If there is no model because every engine failed the golden cases, loading is tried again.
        A model that is still to be loaded will be tested anyway.
        """
        if self._loading.locked() or self._not_ready_reason in {_LOADING, _STOPPING}:
            return
        if self._service is None:
            await self.load()
            return
        async with self._loading:
            report = await asyncio.to_thread(self_test, self._service.model)
            await self._apply_self_test(report.problem)
            _log.info("golden cases run", extra={"passed": report.passed})

    async def _apply_self_test(self, problem: str) -> None:
        """Serve if there is no problem. An agent that stops does not become ready again."""
        self._has_passed_self_test = not problem
        if problem:
            _log.error("not serving", extra={"why": problem})
        if self._not_ready_reason == _STOPPING:
            return
        self._not_ready_reason = problem
        await self._health.set_serving(not problem)

    def _log_serving(self, model: LoadedModel) -> None:
        values = {
            "address": self.address,
            "page": self.page,
            "bundle": f"{model.manifest.name}-{model.manifest.version}",
            "digest": model.digest[:12],
            "engine": model.engine.name,
            "compute_device": model.engine.compute_device,
            "why": model.reason,
        }
        _log.info("serving", extra={name: value for name, value in values.items() if value})

    async def stop(self) -> bool:
        """Accept no more requests, finish those in flight, and close everything.

        Returns:
            False if the drain timeout passed first; the requests then in flight are lost.
        """
        self._not_ready_reason = _STOPPING
        await self._health.set_serving(False)
        if not await self._drain():
            timeout_s = self._settings.drain_timeout_s
            _log.error("drain timed out", extra={"timeout_s": timeout_s})
            return False
        with contextlib.suppress(TimeoutError):  # A watcher that does not read is cut off.
            async with asyncio.timeout(HEALTH_END_TIMEOUT_S):
                await self._health.end()
        await self._close()
        _log.info("stopped")
        return True

    def abandon(self) -> None:
        """Give up the requests in flight after a drain that timed out; the audit log names them."""
        for access in self._access_controls:
            access.record_abandoned()
        audit = self._security.audit if self._security else None
        if audit is not None:
            # Blocking the event loop does no harm, because nothing else is running.
            audit.close(AUDIT_CLOSE_TIMEOUT_S)

    async def _drain(self) -> bool:
        drains = []
        if self._grpc is not None:
            drains.append(asyncio.ensure_future(self._grpc.drain()))
        if self._http is not None:
            drains.append(asyncio.ensure_future(self._http.stop()))
        if not drains:
            return True
        _, unfinished = await asyncio.wait(drains, timeout=self._settings.drain_timeout_s)
        return not unfinished

    async def _close(self) -> None:
        if self._trimming is not None:
            self._trimming.cancel()
        if self._grpc is not None:
            await self._grpc.stop()
        await self._decoder.close()
        if self._service is not None:
            await self._service.close()
        audit = self._security.audit if self._security else None
        if audit is not None:
            await asyncio.to_thread(audit.close)

    def _ready_service(self) -> DetectionService:
        if self._service is None or not self._has_passed_self_test:
            raise NotReady(self._not_ready_reason)
        return self._service

    def _metric_sources(self) -> MetricSources:
        decoder = self._decoder
        return MetricSources(
            admission=self._admission_stats,
            audit=self._audit_status if self._settings.audit.enabled else None,
            decoding=decoder.stats if isinstance(decoder, SandboxedDecoder) else None,
            ready=lambda: not self._not_ready_reason,
        )

    def _admission_stats(self) -> AdmissionStats:
        if self._service is None:
            return Admission(AdmissionPolicy()).stats()
        return self._service.stats()

    def _audit_status(self) -> AuditStatus:
        audit = self._security.audit if self._security else None
        return audit.status if audit else AuditStatus(0, 0, 0, None)


def _http_limits(settings: Settings) -> HttpLimits:
    """Return HTTP's limits. A single batch must not fill the queue that its own images wait in."""
    limits = HttpLimits(max_image_bytes=settings.limits.max_image_bytes)
    batch_concurrency = min(limits.batch_concurrency, settings.limits.queue_size)
    return replace(limits, batch_concurrency=batch_concurrency)
