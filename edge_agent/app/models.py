"""From the settings to a bundle, a loaded model, a decoder and a detection service."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from edge_agent.config import Settings
from edge_agent.decoding.decoder import Decoder, SandboxedDecoder, ThreadDecoder
from edge_agent.decoding.pool import DecodePolicy
from edge_agent.engines.bundle import Bundle, shipped_bundles, starter_bundle_path
from edge_agent.engines.loader import LoadOptions, load_model, self_test
from edge_agent.engines.model import LoadedModel
from edge_agent.engines.runtimes.factory import runtime_version
from edge_agent.engines.selection.candidates import AUTO
from edge_agent.errors import EngineFailed
from edge_agent.imaging import Limits
from edge_agent.serving.detection import DetectionService
from edge_agent.serving.model_host import ModelHost
from edge_agent.system.cancellation import run_uncancellable

_DECODING_THREADS: Final = 2
"""In place of decoder processes, where the settings ask for none."""

ServiceFactory = Callable[[Settings, Decoder], DetectionService]
"""Loads a model and builds a detection service on it. It blocks."""


def open_bundle(settings: Settings) -> Bundle:
    """Open the bundle that the settings name, or else the starter that comes with the package.

    Raises:
        BundleInvalid: the bundle does not exist, or its digests do not match.
    """
    if settings.bundle is None:
        return Bundle.open(starter_bundle_path())
    return Bundle.open(shipped_bundles().get(str(settings.bundle), settings.bundle))


def describe_bundle(settings: Settings) -> dict[str, Any]:
    """Describe the settings' bundle and which of its engines can run on this machine.

    No engine is opened.

    Returns:
        Values for JSON.

    Raises:
        BundleInvalid: the bundle does not exist, or its digests do not match.
    """
    bundle = open_bundle(settings)
    manifest = bundle.manifest
    variant = settings.engine.variant
    return {
        "file": str(bundle.path),
        "name": manifest.name,
        "version": manifest.version,
        "digest": bundle.digest,
        "intended_use": manifest.intended_use,
        "engines": [engine.name for engine in manifest.engines],
        "runnable_engines": [
            engine.name for engine in manifest.engines if runtime_version(engine.runtime)
        ],
        "requested_engine": (
            "the fastest, measured at the first start" if variant == AUTO else variant
        ),
        "input_height": manifest.input.height,
        "input_width": manifest.input.width,
        "operating_points": {
            engine.name: dict(engine.operating_points) for engine in manifest.engines
        },
        "provenance": manifest.provenance.model_dump(mode="json"),
    }


def load_options(settings: Settings) -> LoadOptions:
    """Return the settings that loading a bundle's model depends on."""
    return LoadOptions(settings.cache_dir, settings.engine.variant, settings.engine.threads)


def image_limits(settings: Settings) -> Limits:
    """Return the image sizes above which the decoders refuse."""
    limits = settings.limits
    return Limits(
        max_pixels=limits.max_pixels, max_bytes=max(Limits().max_bytes, limits.max_image_bytes)
    )


def build_decoder(settings: Settings) -> SandboxedDecoder | ThreadDecoder:
    """Create the decoder: processes, or threads if the settings ask for no process.

    It is not started yet.
    """
    decode = settings.decode
    if not decode.workers:
        return ThreadDecoder(_DECODING_THREADS, image_limits(settings))
    policy = DecodePolicy(
        workers=decode.workers, timeout_s=decode.timeout_s, memory_bytes=decode.memory_bytes
    )
    return SandboxedDecoder(image_limits(settings), policy)


def load_detection_service(settings: Settings, decoder: Decoder) -> DetectionService:
    """Load the settings' model and build a detection service on it. Blocks; see `load_model`.

    Args:
        settings: the bundle, the engine and the limits.
        decoder: decodes the study images. The service does not close it.

    Raises:
        BundleInvalid, ConfigInvalid, EngineFailed: the model cannot be loaded.
    """
    model = load_model(open_bundle(settings), load_options(settings))
    return DetectionService(
        ModelHost([model]),
        decoder,
        queue_size=settings.limits.queue_size,
        waiting_bytes=settings.limits.waiting_bytes,
    )


@contextlib.asynccontextmanager
async def open_detection_service(settings: Settings) -> AsyncIterator[DetectionService]:
    """Open a detection service without a server, and close it on leaving.

    The golden cases are run first, because an engine that was measured at an earlier start may
    fail today.

    Raises:
        BundleInvalid, ConfigInvalid, EngineFailed: the model cannot be loaded, or does not pass.
    """
    decoder = build_decoder(settings)
    try:
        service = await load_with_decoder(settings, load_detection_service, decoder)
        try:
            await _require_self_test(service.model)
            yield service
        finally:
            await service.close()
    finally:
        await decoder.close()


async def _require_self_test(model: LoadedModel) -> None:
    report = await asyncio.to_thread(self_test, model)
    if not report.passed:
        raise EngineFailed(
            report.problem,
            hint="This machine does not reproduce the findings that were recorded when the bundle "
            "was made. Update the agent, or use another bundle, engine or machine.",
        )


async def load_with_decoder(
    settings: Settings, load: ServiceFactory, decoder: Decoder
) -> DetectionService:
    """Load a detection service while its decoder starts.

    Args:
        settings: given to `load`.
        load: builds the service, in a thread.
        decoder: started here. After a failure it can be used by the next attempt.

    Returns:
        The service; its decoder is ready.

    Raises:
        HilumError: the model cannot be loaded, or the decoder does not start.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="load") as executor:
        starting = asyncio.create_task(decoder.start())
        try:
            service = await run_uncancellable(executor, load, settings, decoder)
            await starting
        except Exception:
            await asyncio.wait({starting})  # The next attempt uses the decoder as it is then.
            raise
        finally:
            starting.cancel()
            await asyncio.wait({starting})
    return service
