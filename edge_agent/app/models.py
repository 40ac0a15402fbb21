"""From the settings to a pipeline: bundle, engine for this box, golden cases, decoder."""

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
from edge_agent.engines.loader import LoadOptions, load_model
from edge_agent.engines.model import LoadedModel
from edge_agent.engines.runtimes.factory import runtime_version
from edge_agent.engines.selection.select import AUTO
from edge_agent.errors import EngineFailed
from edge_agent.imaging import Limits
from edge_agent.serving.detection import DetectionService
from edge_agent.system.aio import run_uncancellable

_THREADS_INSTEAD: Final = 2

ServiceFactory = Callable[[Settings, Decoder], DetectionService]


def open_bundle(settings: Settings) -> Bundle:
    """The bundle that the settings name, else the starter that comes with the package.

    Raises:
        BundleInvalid: it is not there, or fails its own digests.
    """
    if settings.bundle is None:
        return Bundle.open(starter_bundle_path())
    return Bundle.open(shipped_bundles().get(str(settings.bundle), settings.bundle))


def describe_bundle(settings: Settings) -> dict[str, Any]:
    """What a bundle says about itself and which of its engines may run here; compiles nothing.

    Raises:
        BundleInvalid: the operator must act.
    """
    bundle = open_bundle(settings)
    manifest = bundle.manifest
    wanted = settings.engine.variant
    return {
        "file": str(bundle.path),
        "name": manifest.name,
        "version": manifest.version,
        "digest": bundle.digest,
        "intended_use": manifest.intended_use,
        "engines": [it.name for it in manifest.engines],
        "runnable_engines": [it.name for it in manifest.engines if runtime_version(it.runtime)],
        "wanted_engine": "the fastest, measured at the first start" if wanted == AUTO else wanted,
        "input_height": manifest.input.height,
        "input_width": manifest.input.width,
        "operating_points": {it.name: dict(it.operating_points) for it in manifest.engines},
        "provenance": manifest.provenance.model_dump(mode="json"),
    }


def load_options(settings: Settings) -> LoadOptions:
    """Return the settings that loading a bundle's model depends on."""
    return LoadOptions(settings.cache_dir, settings.engine.variant, settings.engine.threads)


def image_limits(settings: Settings) -> Limits:
    """What the decoders refuse by size."""
    limits = settings.limits
    return Limits(
        max_pixels=limits.max_pixels, max_bytes=max(Limits().max_bytes, limits.max_image_bytes)
    )


def build_decoder(settings: Settings) -> SandboxedDecoder | ThreadDecoder:
    """What decodes: processes of their own, unless the operator wants none. Not started yet."""
    decode = settings.decode
    if not decode.workers:
        return ThreadDecoder(_THREADS_INSTEAD, image_limits(settings))
    policy = DecodePolicy(
        workers=decode.workers, timeout_s=decode.timeout_s, memory_bytes=decode.memory_bytes
    )
    return SandboxedDecoder(image_limits(settings), policy)


def load_detection_service(settings: Settings, decoder: Decoder) -> DetectionService:
    """Load the model and build the pipeline over it; see `load_model`. Blocks."""
    model = load_model(open_bundle(settings), load_options(settings))
    return DetectionService(
        model,
        decoder,
        queue_size=settings.limits.queue_size,
        waiting_bytes=settings.limits.waiting_bytes,
        batch=model.batch_policy,
    )


@contextlib.asynccontextmanager
async def open_detection_service(settings: Settings) -> AsyncIterator[DetectionService]:
    """A pipeline without a server, closed at the end.

    What was measured at an earlier start may not hold today: the golden cases are run first.

    Raises:
        BundleInvalid, ConfigInvalid, EngineFailed: the operator must act.
    """
    decoder = build_decoder(settings)
    try:
        pipeline = await load_with_decoder(settings, load_detection_service, decoder)
        try:
            await _check_sound(pipeline.model)
            yield pipeline
        finally:
            await pipeline.close()
    finally:
        await decoder.close()


async def _check_sound(model: LoadedModel) -> None:
    report = await asyncio.to_thread(model.self_test)
    if not report.passed:
        raise EngineFailed(
            report.problem,
            hint="This box does not compute what the bundle's makers saw. Update the agent, use "
            "another bundle or engine, or another box.",
        )


async def load_with_decoder(
    settings: Settings, load: ServiceFactory, decoder: Decoder
) -> DetectionService:
    """The pipeline over a decoder that is ready; both get ready side by side."""
    with ThreadPoolExecutor(1, thread_name_prefix="load") as executor:
        starting = asyncio.create_task(decoder.start())
        try:
            pipeline = await run_uncancellable(executor, load, settings, decoder)
            await starting
        except Exception:
            await asyncio.wait({starting})  # The next attempt takes the decoder as it is.
            raise
        finally:
            starting.cancel()
            await asyncio.wait({starting})
    return pipeline
