"""Loads a bundle's model: selects an engine variant for this machine, opens it and tests it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from edge_agent.engines.base import Engine
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.content_check import ContentChecker, OpenVinoContentChecker
from edge_agent.engines.engine_process import EngineProcessFailed
from edge_agent.engines.golden import GoldenSet, GoldenSource, run_content_check, run_golden
from edge_agent.engines.model import LoadedModel, SelfTestReport
from edge_agent.engines.runtimes.factory import open_engine
from edge_agent.engines.selection.candidates import AUTO, EngineSelection
from edge_agent.engines.selection.in_service import (
    InService,
    check_available_memory,
    select_in_service,
)
from edge_agent.engines.selection.select import select_engine
from edge_agent.errors import EngineFailed, HilumError
from edge_agent.system.abandon import Abandoned, run_or_abandon

__all__ = ["InService", "LoadOptions", "load_model", "self_test"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Options of loading a bundle's model.

    Attributes:
        cache_dir: the agent's folder for engine selections and compiled models.
        variant: the name of the engine variant to run, or `AUTO` for the fastest one.
        threads: threads that compute; 0 means one for each core.
        in_service: the bounds on loading beside a model that answers requests; None if this
            machine answers none.
    """

    cache_dir: Path
    variant: str = AUTO
    threads: int = 0
    in_service: InService | None = None


def load_model(bundle: Bundle, options: LoadOptions) -> LoadedModel:
    """Select a bundle's engine variant for this machine and load it.

    Blocks, for minutes where the variants have to be measured first. A processor's engine runs the
    golden cases only when the variants are measured, a GPU's each time; in service, each engine
    runs them in a process of its own first. A caller who is about to serve calls `self_test`.

    Args:
        bundle: the verified bundle.
        options: the variant, the threads, the cache folder and the bounds in service.

    Returns:
        The loaded model. The caller closes it.

    Raises:
        BundleInvalid: the bundle has no variant that this agent has a runtime for.
        ConfigInvalid: the variant does not exist, or the cache folder is not private.
        EngineFailed: no engine reproduces the recorded findings, or the selected one fails. In
            service also: it exceeds the memory or the time that it may take.
    """
    golden = GoldenSet.of(bundle)
    if options.in_service is not None:
        return _load_in_service(bundle, options, golden, options.in_service)
    failed: dict[str, str] = {}
    while True:
        selection = select_engine(
            bundle, options.cache_dir, options.threads, wanted=options.variant, without=failed
        )
        try:
            engine = _open_engine(bundle, selection, options, golden)
        except EngineFailed as error:
            # A GPU that worked when the variants were measured may fail today. Its variant is
            # excluded then, unless the operator asked for it by name.
            if selection.variant.runtime != "tensorrt" or options.variant != AUTO:
                raise
            name = selection.variant.name
            failed[name] = error.message
            _log.warning("engine excluded", extra={"engine": name, "reason": error.message})
        else:
            return _build_model(bundle, selection, engine, golden)


def _load_in_service(
    bundle: Bundle, options: LoadOptions, golden: GoldenSource, bounds: InService
) -> LoadedModel:
    """Load a model of which a process of its own has shown that it can be used.

    The process has left the compiled model in the cache, so that loading it takes little of the
    processor from the model that serves. The priority of the loading thread is not lowered: the
    runtime's threads would inherit that, and could not regain it.
    """

    def open_model() -> LoadedModel:
        engine = _open_engine(bundle, selection, options, golden)
        return _build_model(bundle, selection, engine, golden)

    selection = select_in_service(
        bundle, options.cache_dir, options.threads, bounds=bounds, wanted=options.variant
    )
    name = selection.variant.name
    try:
        check_available_memory(selection.peak_bytes)
        return run_or_abandon(open_model, bounds.open_s, discard=LoadedModel.close)
    except EngineProcessFailed as error:
        raise EngineFailed(f"{name} {error}") from None
    except Abandoned:
        raise EngineFailed(
            f"{name} did not open within {bounds.open_s:g} s, although it did in a process of its "
            "own",
            hint="The model that serves goes on. Restart the agent to free what the attempt holds.",
        ) from None


def _open_engine(
    bundle: Bundle, selection: EngineSelection, options: LoadOptions, golden: GoldenSource
) -> Engine:
    """Open the selected engine. A GPU's runs the golden cases, because a GPU may compute wrongly.

    Raises:
        EngineFailed: it cannot be opened, or the GPU computes other findings than recorded.
    """
    engine = open_engine(
        bundle,
        selection.variant,
        threads=options.threads,
        cache_dir=options.cache_dir,
        batch=selection.batch,
    )
    if selection.variant.runtime != "tensorrt":
        return engine
    report = _run_golden_cases(golden, engine)
    if not report.passed:
        engine.close()
        raise EngineFailed(report.problem)
    return engine


def _build_model(
    bundle: Bundle, selection: EngineSelection, engine: Engine, golden: GoldenSource
) -> LoadedModel:
    """Open the content check; the engine is closed if that fails."""
    try:
        checker = OpenVinoContentChecker.of(bundle)
    except BaseException:
        engine.close()
        raise
    reason = f"{selection.reason}; cached" if selection.is_cached else selection.reason
    return LoadedModel(
        bundle.manifest,
        bundle.digest,
        selection.variant,
        engine,
        reason,
        batch_policy=selection.batch,
        content_checker=checker,
        golden=golden,
    )


def self_test(model: LoadedModel) -> SelfTestReport:
    """Run a model's golden cases on its engine and on its content check. Blocks.

    Args:
        model: the loaded model. It may be serving.

    Returns:
        The report. A part that raises is reported in its `error`.
    """
    if model.golden is None:
        return SelfTestReport(model.engine.name)
    return _run_golden_cases(model.golden, model.engine, model.content_checker)


def _run_golden_cases(
    golden: GoldenSource, engine: Engine, checker: ContentChecker | None = None
) -> SelfTestReport:
    try:
        detector = run_golden(golden, engine)
        if checker is None or not all(result.passed for result in detector):
            return SelfTestReport(engine.name, detector)
        return SelfTestReport(engine.name, detector, run_content_check(golden, checker.judge))
    except HilumError as error:
        return SelfTestReport(engine.name, error=error.message)
