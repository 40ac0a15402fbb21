"""Where the agent's parts are wired together, and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

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
from edge_agent.errors import ConfigInvalid, EngineFailed, NotReady
from edge_agent.security.tls import make_grpc_credentials
from edge_agent.serving.detection import DetectionService
from edge_agent.serving.grpc.access import GrpcAccessControl
from edge_agent.serving.grpc.health import HealthServicer
from edge_agent.serving.grpc.interceptor import AuthInterceptor
from edge_agent.serving.grpc.servicer import SERVICE, Detector
from edge_agent.serving.http.access import HttpAccessControl
from edge_agent.serving.http.app import create_http_app
from edge_agent.serving.http.converters import to_model_info
from edge_agent.serving.http.endpoints import HttpLimits
from edge_agent.serving.http.server import HttpServer
from edge_agent.serving.metrics import AgentMetrics, MetricSources, Transport
from edge_agent.serving.render import Renderer
from edge_agent.system.malloc import reuse_freed_memory, trim_heap_periodically
from hilum.v1 import detection_pb2_grpc

ENVELOPE_BYTES: Final = 1 << 16
"""Room in a message for what stands beside the image."""
WATCHERS_TOLD_WITHIN_S: Final = 1.0
LOADING_ENDS_WITHIN_S: Final = 2.0
ABANDONED_WITHIN_S: Final = 2.0
_LOADING: Final = "The agent is loading its model."
_STOPPING: Final = "The agent is stopping."

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Agent:
    """The parts of a running agent: listens first, serves once its model is warm and sound."""

    def __init__(self, settings: Settings, load: ServiceFactory = load_detection_service) -> None:
        self._settings = settings
        self._load = load
        self._decoder = build_decoder(settings)
        self._pipeline: DetectionService | None = None
        self._problem = _LOADING
        self._sound = False
        self._loading = asyncio.Lock()
        self._health = HealthServicer("", SERVICE)
        self._metrics = AgentMetrics(self._sources())
        self._doors: ListenerSecurity | None = None
        self._accesses: list[GrpcAccessControl | HttpAccessControl] = []
        self._detector: Detector | None = None
        self._grpc: grpc.aio.Server | None = None
        self._http: HttpServer | None = None
        self._tidying: asyncio.Task[None] | None = None
        self.port = settings.grpc.port
        self.http_port = settings.http.port

    @property
    def address(self) -> str:
        """Where gRPC listens; with the port that was chosen, once started."""
        return format_address(self._settings.grpc.host, self.port)

    @property
    def page(self) -> str:
        """Where the page is; empty if there is none."""
        http = self._settings.http
        scheme = "http" if self._settings.tls.certificate is None else "https"
        return f"{scheme}://{format_address(http.host, self.http_port)}/" if http.enabled else ""

    async def start(self) -> None:
        """Listen. Until `load` is done every request is answered with NotReady.

        Raises:
            ConfigInvalid: an address is taken or not this machine's, a file cannot be used, or the
                agent would be open to other machines.
        """
        reuse_freed_memory()
        self._doors = doors = await asyncio.to_thread(load_security, self._settings)
        if doors.tls is not None:
            self._metrics.tls_ends(doors.tls.not_after.timestamp())
        try:
            await self._start_grpc(doors)
            if self._settings.http.enabled:
                await self._start_http(doors)
        except BaseException:
            await self._close()
            raise
        self._tidying = asyncio.create_task(trim_heap_periodically(), name="tidy")

    async def _start_grpc(self, doors: ListenerSecurity) -> None:
        settings = self._settings
        count = partial(self._metrics.request_answered, Transport.GRPC)
        access = GrpcAccessControl(doors.grpc, doors.audit, count)
        self._accesses.append(access)
        self._detector = Detector(
            self._ready_pipeline, access, stream_concurrency=settings.grpc.stream_concurrency
        )
        self._grpc = server = grpc.aio.server(
            interceptors=[AuthInterceptor(access)],
            options=[
                (
                    "grpc.max_receive_message_length",
                    settings.limits.max_image_bytes + ENVELOPE_BYTES,
                ),
                # Two agents on one port would share its callers by chance.
                ("grpc.so_reuseport", 0),
            ],
        )
        detection_pb2_grpc.add_DetectorServicer_to_server(self._detector, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        reflection.enable_server_reflection((SERVICE, health_name, reflection.SERVICE_NAME), server)
        address = settings.grpc.address
        try:
            if doors.tls is None:
                self.port = server.add_insecure_port(address)
            else:
                self.port = server.add_secure_port(address, make_grpc_credentials(doors.tls))
        except RuntimeError:
            raise ConfigInvalid(
                f"The agent cannot listen on {address}: "
                "the port is taken, or the address is not this machine's.",
                hint="Stop what listens there, or choose another port with --port.",
            ) from None
        await server.start()

    async def _start_http(self, doors: ListenerSecurity) -> None:
        settings = self._settings
        count = partial(self._metrics.request_answered, Transport.HTTP)
        access = HttpAccessControl(doors.http, doors.audit, count)
        self._accesses.append(access)
        renderer = Renderer(self._decoder)
        app = create_http_app(
            pipeline=self._ready_pipeline,
            renderer=lambda: self._when_ready(renderer),
            model_info=lambda: to_model_info(self._ready_pipeline().model),
            readiness=lambda: self._problem,
            metrics=self._metrics.render,
            access=access,
            trusted_hosts=doors.names,
            limits=_http_limits(settings),
        )
        server = HttpServer(
            app,
            host=settings.http.host,
            port=settings.http.port,
            tls=doors.tls,
            drain_timeout_s=settings.drain_timeout_s,
        )
        self.http_port = await server.start()
        self._http = server

    async def load(self) -> None:
        """Load, warm and test the model, then serve; a box that answers wrongly does not.

        Raises:
            OperatorError: the model cannot be loaded.
        """
        async with self._loading:
            try:
                self._pipeline = await load_with_decoder(self._settings, self._load, self._decoder)
            except EngineFailed as error:
                await self._judge(error.message)
                return
            model = self._pipeline.model
            self._pipeline.on_answer(self._metrics.image_answered)
            self._metrics.model_in_use(model.digest, model.engine.name, model.variant.name)
            report = await asyncio.to_thread(model.self_test)
            await self._judge(report.problem)
            if not self._problem:
                self._say_serving(self._pipeline)

    async def recheck(self) -> None:
        """Run the golden cases again, beside what is in flight; serve or stop serving by them.

        Where there is no model yet because this box failed them all, try again from the start. One
        that has yet to be loaded, or is being loaded, will be tested anyway.
        """
        if self._loading.locked() or self._problem in {_LOADING, _STOPPING}:
            return
        if self._pipeline is None:
            await self.load()
            return
        async with self._loading:
            model = self._pipeline.model
            report = await asyncio.to_thread(model.self_test)
            await self._judge(report.problem)
            _log.info("golden cases run", extra={"sound": report.passed})

    async def _judge(self, problem: str) -> None:
        """By the golden cases: an agent that stops goes on to answer only if it is sound."""
        self._sound = not problem
        if problem:
            _log.error("not serving", extra={"why": problem})
        if self._problem == _STOPPING:
            return
        self._problem = problem
        await self._health.set_serving(not problem)

    def _say_serving(self, pipeline: DetectionService) -> None:
        model = pipeline.model
        said = {
            "address": self.address,
            "page": self.page,
            "bundle": f"{model.manifest.name}-{model.manifest.version}",
            "digest": model.digest[:12],
            "engine": model.engine.name,
            "compute_device": model.engine.compute_device,
            "why": model.reason,
        }
        _log.info("serving", extra={name: value for name, value in said.items() if value})

    async def stop(self) -> bool:
        """Take on nothing more, finish what is in flight, end.

        Returns:
            False if the drain timeout passed first; what was then in flight is lost.
        """
        self._problem = _STOPPING
        await self._health.set_serving(False)
        if not await self._drained():
            timeout_s = self._settings.drain_timeout_s
            _log.error("drain timed out", extra={"timeout_s": timeout_s})
            return False
        with contextlib.suppress(TimeoutError):  # A watcher that does not listen is left behind.
            async with asyncio.timeout(WATCHERS_TOLD_WITHIN_S):
                await self._health.end()
        await self._close()
        _log.info("stopped")
        return True

    def abandon(self) -> None:
        """Give up what is in flight after a drain that timed out; the audit log says of what."""
        for access in self._accesses:
            access.record_abandoned()
        audit = self._doors.audit if self._doors else None
        if audit is not None:
            audit.close(ABANDONED_WITHIN_S)  # It may hold up the event loop: nothing else goes on.

    async def _drained(self) -> bool:
        draining = []
        if self._detector is not None:
            draining.append(asyncio.ensure_future(self._detector.drain()))
        if self._http is not None:
            draining.append(asyncio.ensure_future(self._http.stop()))
        if not draining:
            return True
        _, late = await asyncio.wait(draining, timeout=self._settings.drain_timeout_s)
        return not late

    async def _close(self) -> None:
        if self._tidying is not None:
            self._tidying.cancel()
        if self._grpc is not None:
            server, self._grpc = self._grpc, None  # Freed here: it may not outlive its event loop.
            await server.stop(None)
        await self._decoder.close()
        if self._pipeline is not None:
            await self._pipeline.close()
        audit = self._doors.audit if self._doors else None
        if audit is not None:
            await asyncio.to_thread(audit.close)

    def _ready_pipeline(self) -> DetectionService:
        if self._pipeline is None or not self._sound:
            raise NotReady(self._problem)
        return self._pipeline

    def _when_ready(self, part: T) -> T:
        self._ready_pipeline()
        return part

    def _sources(self) -> MetricSources:
        nothing = Admission(AdmissionPolicy()).stats()

        def admission() -> AdmissionStats:
            return self._pipeline.stats() if self._pipeline else nothing

        def audit() -> AuditStatus:
            audit = self._doors.audit if self._doors else None
            return audit.status if audit else AuditStatus(0, 0, 0, None)

        decoder = self._decoder
        return MetricSources(
            admission=admission,
            audit=audit if self._settings.audit.enabled else None,
            decoding=decoder.stats if isinstance(decoder, SandboxedDecoder) else None,
            ready=lambda: not self._problem,
        )


def _http_limits(settings: Settings) -> HttpLimits:
    """What HTTP takes; a batch by itself must not fill the queue that its own images wait in."""
    limits = HttpLimits(max_image_bytes=settings.limits.max_image_bytes)
    at_once = min(limits.batch_concurrency, settings.limits.queue_size)
    return replace(limits, batch_concurrency=at_once)


async def serve(settings: Settings, load: ServiceFactory = load_detection_service) -> int:
    """Run the agent until SIGTERM or SIGINT; a second signal ends it at once.

    SIGHUP runs the golden cases again.

    Returns:
        The process's exit status, 0. Where work in flight was lost the process ends here, with 1.

    Raises:
        OperatorError: the agent cannot listen or its model cannot be loaded.
    """
    stop = asyncio.Event()
    agent = Agent(settings, load)
    rechecking: set[asyncio.Task[None]] = set()

    def recheck() -> None:
        task = asyncio.create_task(agent.recheck())
        rechecking.add(task)
        task.add_done_callback(rechecking.discard)

    _on_signals(stop, recheck)
    await agent.start()
    loading = asyncio.create_task(agent.load())
    signalled = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({loading, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
        await signalled
    finally:
        loading.cancel()
        _, left = await asyncio.wait({loading, *rechecking}, timeout=LOADING_ENDS_WITHIN_S)
        drained = await agent.stop()
        if not drained:
            agent.abandon()
        if stop.is_set() and (left or not drained):
            # Measuring engines takes minutes, and a thread that hangs in its work does not end:
            # neither would the event loop, which waits for both.
            os._exit(0 if drained else 1)
    return 0


def _on_signals(stop: asyncio.Event, recheck: Callable[[], None]) -> None:
    def received(signum: int) -> None:
        if stop.is_set():
            os._exit(128 + signum)  # What a shell reports for a program that a signal ended.
        _log.info("stopping", extra={"signal": signal.Signals(signum).name})
        stop.set()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, received, signum)
    loop.add_signal_handler(signal.SIGHUP, recheck)
