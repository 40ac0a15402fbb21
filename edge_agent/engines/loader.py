"""Loads a bundle's model: selects an engine variant for this machine, opens it and tests it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from edge_agent.engines.base import Engine
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.content_check import ContentChecker, OpenVinoContentChecker
from edge_agent.engines.golden import GoldenSet, GoldenSource, run_content_check, run_golden
from edge_agent.engines.model import LoadedModel, SelfTestReport
from edge_agent.engines.runtimes.factory import open_engine
from edge_agent.engines.selection.select import AUTO, EngineSelection, select_engine
from edge_agent.errors import EngineFailed, HilumError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Options of loading a bundle's model.

    Attributes:
        cache_dir: the agent's folder for engine selections and compiled models.
        variant: the name of the engine variant to run, or `AUTO` for the fastest one.
        threads: threads that compute; 0 means one for each core.
    """

    cache_dir: Path
    variant: str = AUTO
    threads: int = 0


def load_model(bundle: Bundle, options: LoadOptions) -> LoadedModel:
    """Select a bundle's engine variant for this machine and load it.

    Blocks, for minutes where the variants have to be measured first. A processor's engine runs the
    golden cases only when the variants are measured, a GPU's each time. A caller who is about to
    serve calls `self_test`.

    Args:
        bundle: the verified bundle.
        options: the variant, the threads and the cache folder.

    Returns:
        The loaded model. The caller closes it.

    Raises:
        BundleInvalid: the bundle has no variant that this agent has a runtime for.
        ConfigInvalid: the variant does not exist, or the cache folder is not private.
        EngineFailed: no engine reproduces the recorded findings, or the selected one fails.
    """
    golden = GoldenSet.of(bundle)
    selection, engine = _open_selected(bundle, options, golden)
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


def _open_selected(
    bundle: Bundle, options: LoadOptions, golden: GoldenSource
) -> tuple[EngineSelection, Engine]:
    """Open the selected engine.

    A GPU that worked when the variants were measured may fail today, or compute wrongly, so its
    engine is tested. If it fails, its variant is excluded and the selection is repeated, unless the
    operator asked for that variant by name.
    """
    failed: dict[str, str] = {}
    while True:
        selection = select_engine(
            bundle, options.cache_dir, options.threads, wanted=options.variant, without=failed
        )
        is_gpu = selection.variant.runtime == "tensorrt"
        may_fall_back = is_gpu and options.variant == AUTO
        try:
            engine = open_engine(
                bundle,
                selection.variant,
                threads=options.threads,
                cache_dir=options.cache_dir,
                batch=selection.batch,
            )
        except EngineFailed as error:
            if not may_fall_back:
                raise
            problem = error.message
        else:
            problem = _run_golden_cases(golden, engine).problem if is_gpu else ""
            if not problem:
                return selection, engine
            engine.close()
            if not may_fall_back:
                raise EngineFailed(problem)
        failed[selection.variant.name] = problem
        _log.warning("engine excluded", extra={"engine": selection.variant.name, "reason": problem})


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
