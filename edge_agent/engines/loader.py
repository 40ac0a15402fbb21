"""Loads a bundle's model: selects an engine variant for this machine, opens it and tests it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edge_agent.engines.base import Engine
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.content_check import ContentChecker, OpenVinoContentChecker
from edge_agent.engines.golden import run_content_check, run_golden
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

    Blocks, for minutes where the variants have to be measured first. The golden cases are run only
    when the variants are measured, or when a GPU's engine was selected automatically. A caller who
    is about to serve calls `self_test` of the returned model.

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
    selection, engine = _open_selected(bundle, options)
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
        self_test=partial(run_self_test, bundle, engine, checker),
    )


def _open_selected(bundle: Bundle, options: LoadOptions) -> tuple[EngineSelection, Engine]:
    """Open the selected engine.

    A GPU that worked when the variants were measured may fail today. Its variant is then excluded
    and the selection is repeated, unless the operator asked for that variant by name.
    """
    failed: dict[str, str] = {}
    while True:
        selection = select_engine(
            bundle, options.cache_dir, options.threads, wanted=options.variant, without=failed
        )
        may_fall_back = selection.variant.runtime == "tensorrt" and options.variant == AUTO
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
            problem = run_self_test(bundle, engine).problem if may_fall_back else ""
            if not problem:
                return selection, engine
            engine.close()
        failed[selection.variant.name] = problem
        _log.warning("engine excluded", extra={"engine": selection.variant.name, "reason": problem})


def run_self_test(
    bundle: Bundle, engine: Engine, checker: ContentChecker | None = None
) -> SelfTestReport:
    """Run a bundle's golden cases on an engine and on the content check. Blocks.

    Args:
        bundle: the bundle whose golden cases are run.
        engine: one of its engine variants, opened.
        checker: its content check, if that is to be tested.

    Returns:
        The report. A part that raises is reported in its `error`.
    """
    try:
        detector = run_golden(bundle, engine)
        if checker is None or not all(result.passed for result in detector):
            return SelfTestReport(engine.name, detector)
        return SelfTestReport(engine.name, detector, run_content_check(bundle, checker.judge))
    except HilumError as error:
        return SelfTestReport(engine.name, error=error.message)
