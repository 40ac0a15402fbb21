"""Connects the agent's parts: listeners, decoder, model, security, metrics and life cycle."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextlib import AsyncExitStack
from typing import Final

from edge_agent.app.audit_monitor import AuditMonitor
from edge_agent.app.listeners import AccessControls, make_grpc_server, make_http_server
from edge_agent.app.model_manager import ModelManager
from edge_agent.app.model_service import ModelService
from edge_agent.app.models import ServiceFactory, build_decoder, load_detection_service
from edge_agent.app.security import ListenerSecurity, load_security
from edge_agent.app.services import BackgroundTask, Listener, start_service
from edge_agent.app.systemd import SystemdReporter
from edge_agent.app.watchdog import Watchdog
from edge_agent.audit.log import AuditStatus
from edge_agent.config import Settings, format_address
from edge_agent.core.admission import Admission, AdmissionPolicy, AdmissionStats
from edge_agent.core.lifecycle import Lifecycle
from edge_agent.decoding.decoder import SandboxedDecoder
from edge_agent.engines.model import LoadedModel
from edge_agent.errors import HilumError
from edge_agent.security.tls import TlsStatus
from edge_agent.serving.detection import DetectionService
from edge_agent.serving.grpc.control_server import ControlServer
from edge_agent.serving.grpc.health import HealthServicer
from edge_agent.serving.grpc.model_control import ModelControlServicer
from edge_agent.serving.grpc.servicer import SERVICE
from edge_agent.serving.metrics import AgentMetrics, MetricSources
from edge_agent.serving.model_host import ServedModel
from edge_agent.system.malloc import reuse_freed_memory, trim_heap_periodically
from edge_agent.system.state_folder import StateFolder
from edge_agent.system.systemd import ServiceManager

HEALTH_END_TIMEOUT_S: Final = 1.0
"""For sending the last state to those who watch the agent's health."""
AUDIT_CLOSE_TIMEOUT_S: Final = 2.0
"""For writing the audit log's last entries after a drain that timed out."""

_log = logging.getLogger(__name__)


class Agent:
    """A running agent. It listens at once, and serves when its model is loaded and tested."""

    def __init__(
        self,
        settings: Settings,
        load: ServiceFactory = load_detection_service,
        manager: ServiceManager | None = None,
    ) -> None:
        """Create an agent, which neither listens nor loads yet.

        Args:
            settings: the agent's settings.
            load: loads the model. It runs in a thread.
            manager: the service manager that started this process; None for none.
        """
        self._settings = settings
        self._manager = manager or ServiceManager()
        self._lifecycle = Lifecycle()
        self._decoder = build_decoder(settings)
        self._models = ModelService(
            settings,
            load,
            self._decoder,
            self._lifecycle,
            on_load=self._observe_detections,
            on_serving=self._log_serving,
        )
        self._changes = ModelManager(
            settings, self._detection_after_start, on_active=self._note_active
        )
        self._metrics = AgentMetrics(self._metric_sources())
        self._health = HealthServicer(self._lifecycle, "", SERVICE)
        self._running = AsyncExitStack()
        self._security: ListenerSecurity | None = None
        self._access: AccessControls | None = None
        self._listeners: list[Listener] = []
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

    @property
    def detection(self) -> DetectionService | None:
        """The detection service; None if no model could be loaded yet."""
        return self._models.detection

    @property
    def is_busy(self) -> bool:
        """True while a model is loaded or tested; after `stop`, if a thread does not end."""
        return self._models.is_busy or self._changes.is_busy

    async def start(self) -> None:
        """Listen. Until `load` has finished, every request is answered with NotReady.

        Raises:
            ConfigInvalid: an address cannot be listened on, a file cannot be used, or other
                machines could use the agent without TLS and a role.
        """
        reuse_freed_memory()
        try:
            await self._start_services()
        except BaseException:
            await self._running.aclose()
            raise

    async def _start_services(self) -> None:
        """Start all services; `_running` stops them in the reverse order."""
        settings, running = self._settings, self._running
        systemd = SystemdReporter(
            self._manager, self._lifecycle, drain_timeout_s=settings.drain_timeout_s
        )
        await start_service(running, systemd)
        state = await asyncio.to_thread(StateFolder.open, settings.state_dir)
        self._security = security = await asyncio.to_thread(load_security, settings, state.box_id)
        if security.audit is not None:
            running.push_async_callback(asyncio.to_thread, security.audit.close)
            await start_service(running, AuditMonitor(security.audit, self._lifecycle))
        running.push_async_callback(self._decoder.close)
        await start_service(running, self._models)
        running.push_async_callback(self._changes.stop)
        watchdog = Watchdog(
            self._served_models,
            self._lifecycle,
            self._manager,
            hang_timeout_s=settings.engine.hang_timeout_s,
        )
        await start_service(running, watchdog)
        await start_service(running, BackgroundTask(trim_heap_periodically, "trim heap"))
        self._access = access = AccessControls(security, self._metrics)
        control = ModelControlServicer(self._changes)
        await start_service(running, ControlServer(control, access.socket, state.socket))
        grpc_server = make_grpc_server(
            settings,
            security.tls,
            access=access.grpc,
            lifecycle=self._lifecycle,
            get_detection=self._models.require,
            health=self._health,
            control=control,
        )
        await self._listen(grpc_server)
        self.port = grpc_server.port
        if settings.http.enabled:
            http_server = make_http_server(
                settings,
                security,
                access=access.http,
                lifecycle=self._lifecycle,
                get_detection=self._models.require,
                decoder=self._decoder,
                render_metrics=self._metrics.render,
            )
            await self._listen(http_server)
            self.http_port = http_server.port

    async def _listen(self, listener: Listener) -> None:
        await start_service(self._running, listener)
        self._listeners.append(listener)

    async def load(self) -> None:
        """Load the model and run its self-test; serve if the test passes.

        Raises:
            OperatorError: the model cannot be loaded.
            CancelledError: the agent stops.
        """
        await self._models.load()
        await self._changes.note_configured()

    async def recheck(self, settings: Settings | None = None) -> None:
        """Take a bundle that was changed in the settings or on the disk; else test again.

        The self-tests run beside the requests in flight; the agent serves or stops serving by them.
        A bundle that cannot be used is logged, and the old model answers.

        Args:
            settings: the settings, read again; only their bundle is taken.
        """
        if settings is not None:
            self._changes.configure(settings.bundle)
        if self._detection_after_start() is not None and not self._lifecycle.is_draining:
            try:
                if await self._changes.take_configured():
                    return
            except HilumError as error:
                _log.error("the bundle was not changed", extra={"why": error.message})
        await self._models.recheck()

    async def stop(self) -> bool:
        """Accept no more requests, finish those in flight, and stop everything.

        All ports stay open, and refuse, until the last request of any of them is answered.

        Returns:
            False if the drain timeout passed first; the requests then in flight are lost.
        """
        self._lifecycle.drain()
        if not await self._drain():
            timeout_s = self._settings.drain_timeout_s
            _log.error("drain timed out", extra={"timeout_s": timeout_s})
            return False
        with contextlib.suppress(TimeoutError):  # A watcher that does not read is cut off.
            async with asyncio.timeout(HEALTH_END_TIMEOUT_S):
                await self._health.end()
        await self._running.aclose()
        _log.info("stopped")
        return True

    async def _drain(self) -> bool:
        if not self._listeners:
            return True
        drains = [asyncio.ensure_future(listener.drain()) for listener in self._listeners]
        _, unfinished = await asyncio.wait(drains, timeout=self._settings.drain_timeout_s)
        for drain in unfinished:
            drain.cancel()
        return not unfinished

    def abandon(self) -> None:
        """Give up the requests in flight after a drain that timed out; the audit log names them."""
        if self._access is not None:
            self._access.record_abandoned()
        if self._security is not None and self._security.audit is not None:
            # Blocking the event loop does no harm, because nothing else is running.
            self._security.audit.close(AUDIT_CLOSE_TIMEOUT_S)

    def _observe_detections(self, detection: DetectionService) -> None:
        detection.observers.add(self._metrics)

    def _detection_after_start(self) -> DetectionService | None:
        """Return the detection service once its models have been tested."""
        return None if self._lifecycle.is_starting else self.detection

    def _note_active(self, model: LoadedModel) -> None:
        self._log_serving(model)
        if not self._lifecycle.is_ready:
            # Only the golden cases of all served models show whether the fault is gone.
            self._models.recheck_later()

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

    def _metric_sources(self) -> MetricSources:
        decoder = self._decoder
        return MetricSources(
            admission=self._admission_stats,
            audit=self._audit_status if self._settings.audit.enabled else None,
            decoding=decoder.stats if isinstance(decoder, SandboxedDecoder) else None,
            ready=lambda: self._lifecycle.is_ready,
            tls=self._tls_status,
            models=lambda: [served.model for served in self._served_models()],
            model_changes=lambda: self._changes.outcomes,
            shadows=self._changes.shadows.statuses,
            observers_dropped=lambda: self.detection.observers.dropped if self.detection else 0,
        )

    def _served_models(self) -> tuple[ServedModel, ...]:
        return self.detection.host.models if self.detection else ()

    def _admission_stats(self) -> AdmissionStats:
        if self.detection is None:
            return Admission(AdmissionPolicy()).stats()
        return self.detection.stats()

    def _audit_status(self) -> AuditStatus:
        audit = self._security.audit if self._security else None
        return audit.status if audit else AuditStatus(0, 0, 0, None)

    def _tls_status(self) -> TlsStatus | None:
        tls = self._security.tls if self._security else None
        return tls.status if tls else None
