"""From the settings to a bundle, a loaded model, a decoder and a detection service."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, Final

from edge_agent.config import Settings
from edge_agent.decoding.decoder import Decoder, SandboxedDecoder, ThreadDecoder
from edge_agent.decoding.pool import DecodePolicy
from edge_agent.engines.bundle import Bundle, shipped_bundles, starter_bundle_path
from edge_agent.engines.loader import InService, LoadOptions, load_model, self_test
from edge_agent.engines.model import LoadedModel
from edge_agent.engines.runtimes.factory import runtime_version
from edge_agent.engines.selection.candidates import AUTO
from edge_agent.errors import ConfigInvalid, EngineFailed, HilumError
from edge_agent.imaging import Limits
from edge_agent.serving.detection import DetectionService
from edge_agent.serving.model_host import ModelHost
from edge_agent.system.cancellation import run_uncancellable
from edge_agent.update.slots import CONFIGURED, DEFAULT, Location, ModelSlots

_DECODING_THREADS: Final = 2
"""In place of decoder processes, where the settings ask for none."""

_log = logging.getLogger(__name__)

ServiceFactory = Callable[[Settings, Decoder], DetectionService]
"""Loads a model and builds a detection service on it. It blocks."""


def open_bundle(settings: Settings, place: str = DEFAULT) -> Bundle:
    """Open a bundle that the settings name; for `default` the starter if they name none.

    Args:
        settings: name the bundles.
        place: `default`, or a key of `settings.models`.

    Raises:
        BundleInvalid: the bundle does not exist, or its digests do not match.
    """
    path = settings.bundle if place == DEFAULT else settings.models[place]
    if path is None:
        return Bundle.open(starter_bundle_path())
    return Bundle.open(shipped_bundles().get(str(path), path))


def load_active_model(settings: Settings, place: str = DEFAULT) -> LoadedModel:
    """Load the model that was last activated for a place. Blocks; see `load_model`.

    An activated bundle that is damaged or fails its golden cases costs nobody the service: the
    bundle that was active before it is loaded, or the one in the settings.

    Args:
        settings: the bundles, the engine and the state folder.
        place: `default`, or a key of `settings.models`.

    Returns:
        The loaded model; one that is not from the settings has passed its self-test.

    Raises:
        BundleInvalid, ConfigInvalid, EngineFailed: no bundle can be loaded.
    """
    slots = ModelSlots(settings.state_dir / "slots", place)
    open_configured = cache(partial(open_bundle, settings, place))  # Reads and hashes all of it.
    record = slots.load(open_configured)
    configured = Location(place=CONFIGURED, digest=record.configured_digest)
    candidates = dict.fromkeys((record.active, record.previous or configured, configured))
    for location in candidates:
        try:
            bundle = slots.open(location, open_configured)
            return _load_tested(bundle, settings, is_activated=location.place != CONFIGURED)
        except HilumError as error:
            if location == configured:
                raise
            _log.error(
                "an activated bundle cannot be used; an earlier one is loaded",
                extra={"digest": location.digest[:12], "why": error.message},
            )
    raise AssertionError("the configured bundle is the last candidate")


def _load_tested(bundle: Bundle, settings: Settings, *, is_activated: bool) -> LoadedModel:
    """Load a bundle's model; an activated one is tested, because there is another to fall back to.

    The model of the bundle in the settings is tested by the caller.
    """
    model = load_model(bundle, load_options(settings))
    if is_activated:
        report = self_test(model)
        if not report.passed:
            model.close()
            raise EngineFailed(report.problem)
    return model


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


def load_options(settings: Settings, in_service: InService | None = None) -> LoadOptions:
    """Return the settings that loading a bundle's model depends on."""
    engine = settings.engine
    return LoadOptions(settings.cache_dir, engine.variant, engine.threads, in_service)


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
    """Load the active models and build a detection service on them. Blocks; see `load_model`.

    Args:
        settings: the bundles, the engine and the limits.
        decoder: decodes the study images. The service does not close it.

    Raises:
        BundleInvalid, EngineFailed: a model cannot be loaded.
        ConfigInvalid: the settings cannot be used, or two bundles have one name.
    """
    models: list[LoadedModel] = []
    try:
        for place in (DEFAULT, *settings.models):
            models.append(load_active_model(settings, place))
            _check_names(models)
    except BaseException:
        for model in models:
            model.close()
        raise
    return DetectionService(
        ModelHost(models),
        decoder,
        queue_size=settings.limits.queue_size,
        waiting_bytes=settings.limits.waiting_bytes,
    )


def _check_names(models: Sequence[LoadedModel]) -> None:
    """Refuse two models of one name, because requests ask for a model by its name."""
    names = [model.manifest.name for model in models]
    if len(set(names)) != len(names):
        raise ConfigInvalid(
            f"Two of the bundles in the settings are named {names[-1]!r}.",
            hint="Requests ask for a model by its name: serve bundles of different names.",
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
