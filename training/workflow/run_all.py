"""Runs all stages from an imported set to a published bundle; unchanged stages are skipped.

After each stage the digests of its inputs and outputs are written to `steps.json` in the run's
folder. A stage is skipped if both are unchanged. A stage that was interrupted resumes by its own
means, such as a training's checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge_agent.engines.base import Pixels
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.runtimes.tensorrt_runtime import find_tensorrt_packages, open_runtime
from training.config import Config
from training.data.atomic_files import replace_files
from training.evaluation import run as evaluating
from training.progress import ProgressCallback, ignore_progress
from training.release.publish import Published, publish
from training.train import run_manifest
from training.train.checkpoints import WEIGHTS
from training.train.run import load_splits
from training.train.tracking import RUN
from training.workflow import make_bundle, quantization
from training.workflow.stages import (
    COMPILER,
    Pipeline,
    content_digest,
    evaluation_request,
    file_digest,
)

FILE: Final = "steps.json"


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """The bundle, and where it is published."""

    bundle: Bundle
    published: Published


def run_all(
    config: Config,
    train: Callable[[Config], object],
    *,
    pictures: Mapping[str, Pixels] | None = None,
    on_message: Callable[[str], None] = lambda _: None,
    on_progress: ProgressCallback = ignore_progress,
) -> PipelineResult:
    """Run every stage whose inputs or outputs have changed, then publish the bundle.

    Args:
        config: the configuration of the run.
        train: trains as configured, and resumes an interrupted training.
        pictures: candidates for golden cases, as `make_bundle.make_bundle` takes them.
        on_message: called with a line for each stage: done, or skipped.
        on_progress: called with the progress of each stage.

    Returns:
        The bundle, and where it is published.

    Raises:
        TrainingError: a stage fails; the results of those before it are kept.
        EngineFailed: no engine can be compiled for one of the compute capabilities.
    """
    _check_settings(config)
    done = _read(config.out)
    pipeline = Pipeline(config, train, pictures, on_message, on_progress)
    for stage in pipeline.stages():
        inputs = content_digest(stage.inputs())
        known = done.get(stage.name)
        if known and known["inputs"] == inputs and _are_unchanged(config.out, known["outputs"]):
            on_message(f"{stage.name}: unchanged, skipped")
            continue
        done.pop(stage.name, None)
        stage.act()
        outputs = {name: file_digest(config.out / name) for name in stage.outputs}
        done[stage.name] = {"inputs": inputs, "outputs": outputs}
        _write(config.out, done)
        on_message(f"{stage.name}: done")
    bundle = Bundle.open(make_bundle.bundle_path(config))
    published = publish(
        bundle,
        config.tracking.uri,
        model=config.tracking.model,
        experiment=config.tracking.experiment,
        run_id=tracked_run(config),
        weights=config.out / WEIGHTS,
    )
    on_message(f"publish: {published.model} version {published.version}, alias {published.alias}")
    return PipelineResult(bundle, published)


def _check_settings(config: Config) -> None:
    """Check before the first stage what can be known to make a later stage fail.

    Raises:
        TrainingError: a split, an image, the acceptance rules or a part of the bundle is invalid,
            or a declared bound was changed.
        BundleInvalid: the baseline is invalid.
        EngineFailed: no engine can be compiled for one of the compute capabilities.
    """
    evaluate, export = config.evaluate, config.export
    parts = ["train", "valid", evaluate.split, evaluate.choose_on, export.calibrate_on]
    if export.max_drop is not None:
        parts.append(export.control_on)
    load_splits(config, dict.fromkeys(parts))
    quantization.check_calibration(config)
    make_bundle.check_settings(config)
    evaluating.check_request(evaluation_request(config, "cpu"))
    if export.capabilities and COMPILER in find_tensorrt_packages():
        open_runtime(COMPILER).check(export.capabilities)
    if (config.out / run_manifest.FILE).is_file() and (config.out / WEIGHTS).is_file():
        run_manifest.load(config)


def tracked_run(config: Config) -> str | None:
    """Return the training's MLflow run, if it is tracked where the bundle is published."""
    try:
        known = json.loads((config.out / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(known["run"]) if known.get("uri") == config.tracking.uri else None


def _are_unchanged(folder: Path, outputs: Mapping[str, str]) -> bool:
    """Return whether the files exist with these digests."""
    return all(
        (folder / name).is_file() and file_digest(folder / name) == digest
        for name, digest in outputs.items()
    )


def _read(folder: Path) -> dict[str, Any]:
    """Return the record of the stages that are done; a damaged record counts as none."""
    try:
        known = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(folder: Path, done: Mapping[str, Any]) -> None:
    with replace_files(folder) as place:
        place(FILE).write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
