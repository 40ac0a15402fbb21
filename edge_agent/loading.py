"""From the settings to a model that may answer: bundle, engine for this box, golden cases."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from edge_agent.config import Settings
from edge_agent.core.choice import BatchPolicy
from edge_agent.engines.base import Engine
from edge_agent.engines.bundle import Bundle, starter_bundle_path
from edge_agent.engines.choose import AUTO, choose
from edge_agent.engines.gate import OpenVinoGate
from edge_agent.engines.golden import run_golden
from edge_agent.engines.runtimes import open_engine, runtime_version
from edge_agent.errors import HilumError
from edge_agent.serving.pipeline import Model

_PROBLEMS_TOLD: Final = 3


def open_bundle(settings: Settings) -> Bundle:
    """The bundle that the settings name, else the starter that comes with the package.

    Raises:
        BundleInvalid: it is not there, or fails its own digests.
    """
    return Bundle.open(settings.bundle or starter_bundle_path())


def bundle_facts(settings: Settings) -> dict[str, Any]:
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


def load_model(settings: Settings) -> tuple[Model, BatchPolicy]:
    """Open the bundle, choose and load its engine, run it once. Blocks, at first for many seconds.

    Raises:
        BundleInvalid, ConfigInvalid, EngineFailed: the operator must act.
    """
    bundle = open_bundle(settings)
    threads, cache_dir = settings.engine.threads, settings.cache_dir
    choice = choose(bundle, cache_dir, threads, wanted=settings.engine.variant)
    engine = open_engine(
        bundle, choice.variant, threads=threads, cache_dir=cache_dir, batch=choice.batch
    )
    model = Model(
        bundle.manifest,
        bundle.digest,
        choice.variant,
        engine,
        choice.reason,
        gate=OpenVinoGate.of(bundle),
        self_test=partial(golden_problem, bundle, engine),
    )
    return model, choice.batch


def golden_problem(bundle: Bundle, engine: Engine) -> str:
    """Why this engine's answers cannot be trusted on this box; empty if they can. Blocks."""
    try:
        verdicts = run_golden(bundle, engine)
    except HilumError as error:
        return error.message
    problems = [f"{verdict.case}: {it}" for verdict in verdicts for it in verdict.problems]
    if not problems:
        return ""
    return (
        f"{engine.name} does not answer the bundle's golden cases as recorded "
        f"({'; '.join(problems[:_PROBLEMS_TOLD])})."
    )
