"""Where the agent's parts are wired together, and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from edge_agent.config import Settings, format_address
from edge_agent.engines.bundle import Bundle, starter_bundle_path
from edge_agent.engines.openvino import OpenVinoEngine, OpenVinoOptions
from edge_agent.errors import BundleInvalid, ConfigInvalid, NotReady
from edge_agent.imaging import Limits
from edge_agent.serving.decoding import ThreadDecoder
from edge_agent.serving.grpc import SERVICE, Detector
from edge_agent.serving.health import Health
from edge_agent.serving.pipeline import Model, Pipeline
from edge_agent.serving.threads import run_to_end
from hilum.manifest import EngineVariant, Manifest
from hilum.v1 import detection_pb2_grpc

ENVELOPE_BYTES: Final = 1 << 16
"""Room in a message for what stands beside the image."""
WATCHERS_TOLD_WITHIN_S: Final = 1.0

log = logging.getLogger(__name__)


def open_bundle(settings: Settings) -> Bundle:
    """The bundle that the settings name, else the starter that comes with the package.

    Raises:
        BundleInvalid: it is not there, or fails its own digests.
    """
    return Bundle.open(settings.bundle or starter_bundle_path())


def choose_variant(manifest: Manifest, wanted: str) -> tuple[EngineVariant, str]:
    """The engine variant to run, and why.

    Raises:
        ConfigInvalid: the bundle has no such variant.
        BundleInvalid: the bundle has none that this agent can run.
    """
    runnable = [variant for variant in manifest.engines if variant.runtime == "openvino"]
    if wanted != "auto":
        for variant in runnable:
            if variant.name == wanted:
                return variant, "set by the operator"
        raise ConfigInvalid(
            f"The bundle {manifest.name} {manifest.version} has no engine {wanted!r} "
            "that runs here.",
            hint="Set engine.variant to auto or to one of: "
            + ", ".join(variant.name for variant in runnable)
            + ".",
        )
    if not runnable:
        raise BundleInvalid(
            f"The bundle {manifest.name} {manifest.version} has no engine that runs here."
        )
    return runnable[0], "the bundle's first that runs here"


def bundle_facts(settings: Settings) -> dict[str, Any]:
    """What a bundle says about itself and which of its engines would run; compiles nothing.

    Raises:
        BundleInvalid, ConfigInvalid: the operator must act.
    """
    bundle = open_bundle(settings)
    manifest = bundle.manifest
    variant, reason = choose_variant(manifest, settings.engine.variant)
    return {
        "file": str(bundle.path),
        "name": manifest.name,
        "version": manifest.version,
        "digest": bundle.digest,
        "intended_use": manifest.intended_use,
        "engines": [engine.name for engine in manifest.engines],
        "engine": variant.name,
        "engine_reason": reason,
        "input_height": manifest.input.height,
        "input_width": manifest.input.width,
        "operating_points": {slug: variant.operating_points[slug] for slug in manifest.findings},
        "provenance": manifest.provenance.model_dump(mode="json"),
    }


def load_model(settings: Settings) -> Model:
    """Open the bundle, compile its engine and run it once. Blocks for up to seconds.

    Raises:
        BundleInvalid, ConfigInvalid, EngineFailed: the operator must act.
    """
    bundle = open_bundle(settings)
    manifest = bundle.manifest
    variant, reason = choose_variant(manifest, settings.engine.variant)
    engine = OpenVinoEngine(
        bundle,
        variant,
        OpenVinoOptions(threads=settings.engine.threads, cache_dir=settings.cache_dir / "compiled"),
    )
    return Model(manifest, bundle.digest, variant, engine, reason)


def image_limits(settings: Settings) -> Limits:
    """What the decoders refuse by size."""
    return Limits(max_pixels=settings.limits.max_pixels)


def build_pipeline(settings: Settings, model: Model) -> Pipeline:
    """A pipeline over a loaded model."""
    return Pipeline(
        model,
        ThreadDecoder(settings.limits.decode_threads, image_limits(settings)),
        queue_size=settings.limits.queue_size,
    )


def load_pipeline(settings: Settings) -> Pipeline:
    """Load the model and build the pipeline over it; see `load_model`."""
    return build_pipeline(settings, load_model(settings))


@contextlib.asynccontextmanager
async def open_pipeline(settings: Settings) -> AsyncIterator[Pipeline]:
    """A pipeline without a server, closed at the end."""
    pipeline = await asyncio.to_thread(load_pipeline, settings)
    try:
        yield pipeline
    finally:
        await asyncio.to_thread(pipeline.close)


class Agent:
    """The parts of a running agent: listens first, serves once its model is warm."""

    def __init__(
        self, settings: Settings, load: Callable[[Settings], Pipeline] = load_pipeline
    ) -> None:
        self._settings = settings
        self._load = load
        self._pipeline: Pipeline | None = None
        self._health = Health("", SERVICE)
        self._detector = Detector(
            self._ready_pipeline, stream_concurrency=settings.grpc.stream_concurrency
        )
        self._server = grpc.aio.server(
            options=[
                (
                    "grpc.max_receive_message_length",
                    settings.limits.max_image_bytes + ENVELOPE_BYTES,
                ),
                # Two agents on one port would share its callers by chance.
                ("grpc.so_reuseport", 0),
            ]
        )
        self.port = settings.grpc.port

    @property
    def address(self) -> str:
        """Where the agent listens; with the port that was chosen, once started."""
        return format_address(self._settings.grpc.host, self.port)

    async def start(self) -> None:
        """Listen. Until `load` is done every request is answered with NotReady.

        Raises:
            ConfigInvalid: the address is taken or not this machine's.
        """
        detection_pb2_grpc.add_DetectorServicer_to_server(self._detector, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        reflection.enable_server_reflection(
            (SERVICE, health_name, reflection.SERVICE_NAME), self._server
        )
        try:
            self.port = self._server.add_insecure_port(self._settings.grpc.address)
        except RuntimeError:
            raise ConfigInvalid(
                f"The agent cannot listen on {self._settings.grpc.address}: "
                "the port is taken, or the address is not this machine's.",
                hint="Stop what listens there, or choose another port with --port.",
            ) from None
        await self._server.start()

    async def load(self) -> None:
        """Load and warm the model, then serve.

        Raises:
            OperatorError: the model cannot be loaded.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="load") as executor:
            self._pipeline = await run_to_end(executor, self._load, self._settings)
        model = self._pipeline.model
        await self._health.set_serving(True)
        log.info(
            "serving",
            extra={
                "address": self.address,
                "bundle": f"{model.manifest.name}-{model.manifest.version}",
                "digest": model.digest[:12],
                "engine": model.engine.name,
                "device": model.engine.device,
            },
        )

    async def stop(self) -> bool:
        """Take on nothing more, finish what is in flight, end.

        Returns:
            False if the drain timeout passed first; what was then in flight is lost.
        """
        await self._health.set_serving(False)
        try:
            async with asyncio.timeout(self._settings.drain_timeout_s):
                await self._detector.drain()
        except TimeoutError:
            timeout_s = self._settings.drain_timeout_s
            log.error("drain timed out", extra={"timeout_s": timeout_s})  # noqa: TRY400  # no trace
            return False
        with contextlib.suppress(TimeoutError):  # A watcher that does not listen is left behind.
            async with asyncio.timeout(WATCHERS_TOLD_WITHIN_S):
                await self._health.end()
        await self._server.stop(None)
        if self._pipeline:
            await asyncio.to_thread(self._pipeline.close)
        log.info("stopped")
        return True

    def _ready_pipeline(self) -> Pipeline:
        if self._pipeline is None:
            raise NotReady("The agent is loading its model.")
        return self._pipeline


async def serve(settings: Settings, load: Callable[[Settings], Pipeline] = load_pipeline) -> int:
    """Run the agent until SIGTERM or SIGINT; a second signal ends it at once.

    Returns:
        The process's exit status: 0, or 1 where work in flight was lost.

    Raises:
        OperatorError: the agent cannot listen or its model cannot be loaded.
    """
    stop = asyncio.Event()
    _on_signals(stop)
    agent = Agent(settings, load)
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
        await asyncio.wait({loading})
        drained = await agent.stop()
    return 0 if drained else 1


def _on_signals(stop: asyncio.Event) -> None:
    def received(signum: int) -> None:
        if stop.is_set():
            os._exit(128 + signum)  # What a shell reports for a program that a signal ended.
        log.info("stopping", extra={"signal": signal.Signals(signum).name})
        stop.set()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, received, signum)
