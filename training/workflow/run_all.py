"""All steps from an imported set to a published bundle; what has not changed is not done again.

After each step its inputs and outputs go to `steps.json` in the run's folder, as digests. A step is
skipped if both are still the same. What a step needs to go on within itself (a training's
checkpoint) is the step's own affair.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge_agent.engines.base import Pixels
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.runtimes.tensorrt_runtime import find_tensorrt_packages, open_runtime
from training.config import Config, Section, TrainConfig
from training.data import splits
from training.data.atomic_files import replace_files
from training.errors import TrainingError
from training.evaluation import run as evaluating
from training.export.artifacts import FILE as EXPORTED
from training.progress import ProgressCallback, ignore_progress
from training.release.publish import Published, publish
from training.train import run_manifest
from training.train.checkpoints import WEIGHTS
from training.train.distributed import choose_device
from training.train.run import read_parts
from training.train.tracking import RUN
from training.workflow import export_steps as steps
from training.workflow import make_bundle

FILE: Final = "steps.json"
TABLES: Final = ("images.csv", "annotations.csv")
_RTX: Final = "tensorrt_rtx"
"""The package that compiles for cards without one."""
Content = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stage:
    """One step: what it rests on, what it does, which files it leaves in the run's folder."""

    name: str
    inputs: Callable[[], Content]
    act: Callable[[], object]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """What came of all."""

    bundle: Bundle
    published: Published


def run_all(
    config: Config,
    train: Callable[[Config], object],
    *,
    pictures: Mapping[str, Pixels] | None = None,
    say: Callable[[str], None] = lambda _: None,
    on_step: ProgressCallback = ignore_progress,
) -> PipelineResult:
    """Do what is missing, step by step.

    Args:
        config: all of it.
        train: trains as configured, going on where a stopped training was.
        pictures: candidates for golden cases, as `bundling.make_bundle` takes them.
        say: told a line for each step: done, or skipped.
        on_step: told how far a step is.

    Raises:
        TrainingError: a step cannot be done; those before it are kept.
        EngineFailed: nothing can be compiled here for one of the compute capabilities.
    """
    _refuse_early(config)
    done = _read(config.out)
    for step in _steps(config, train, pictures, say, on_step):
        inputs = _digest_of(step.inputs())
        known = done.get(step.name)
        if known and known["inputs"] == inputs and _stand(config.out, known["outputs"]):
            say(f"{step.name}: unchanged, skipped")
            continue
        done.pop(step.name, None)
        step.act()
        outputs = {name: _file_digest(config.out / name) for name in step.outputs}
        done[step.name] = {"inputs": inputs, "outputs": outputs}
        _write(config.out, done)
        say(f"{step.name}: done")
    bundle = Bundle.open(make_bundle.bundle_path(config))
    published = publish(
        bundle,
        config.tracking.uri,
        model=config.tracking.model,
        experiment=config.tracking.experiment,
        run_id=tracked_run(config),
    )
    say(f"publish: {published.model} version {published.version}, alias {published.alias}")
    return PipelineResult(bundle, published)


def _refuse_early(config: Config) -> None:
    """What can be known to fail fails before anything takes time.

    Raises:
        TrainingError: a split, a picture, the rules or what the bundle is to hold is not as it
            must be, or a bound was moved.
        BundleInvalid: so is the baseline.
        EngineFailed: there is a compute capability for which nothing can be compiled here.
    """
    wanted, export = config.evaluate, config.export
    parts = ["train", "valid", wanted.split, wanted.choose_on, export.calibrate_on]
    if export.max_drop is not None:
        parts.append(export.control_on)
    read_parts(config, dict.fromkeys(parts))
    steps.check_calibration(config)
    make_bundle.check(config)
    evaluating.check_request(_request(config, "cpu"))
    if export.capabilities and _RTX in find_tensorrt_packages():
        open_runtime(_RTX).check(export.capabilities)
    if (config.out / run_manifest.FILE).is_file() and (config.out / WEIGHTS).is_file():
        run_manifest.read(config)


def tracked_run(config: Config) -> str | None:
    """The training's run in MLflow, if it was told to the place that is published to."""
    try:
        known = json.loads((config.out / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(known["run"]) if known.get("uri") == config.tracking.uri else None


def evaluate(config: Config, on_step: ProgressCallback = ignore_progress) -> None:
    """Measure the run's weights as configured, into the run's folder, where they were trained.

    Raises:
        TrainingError: a split, the rules, the baseline, the weights or the run's device cannot be
            used, or a rule fails.
    """
    request = _request(config, str(choose_device(config.train.device)))
    evaluation = evaluating.run_evaluation(request, on_step)
    if failed := [result for result in evaluation.acceptance or () if not result.passed]:
        outcomes = "; ".join(f"{result.rule}: {result.outcome}" for result in failed)
        raise TrainingError(
            f"the model fails acceptance rules: {outcomes}",
            hint=f"Look at {config.out / make_bundle.EVALUATION / evaluating.HTML}.",
        )


def baseline_of(config: Config) -> Path | None:
    """The bundle that the new weights are compared with: the one stated, or the one replaced."""
    return config.evaluate.baseline or config.bundle.replaces


def _request(config: Config, device: str) -> evaluating.EvaluationRequest:
    wanted, train = config.evaluate, config.train
    return evaluating.EvaluationRequest(
        subject=evaluating.WeightsFile(
            config.out / WEIGHTS, train.architecture, train.input_size, device
        ),
        split=wanted.split,
        out=config.out / make_bundle.EVALUATION,
        data=config.data.dataset,
        split_file=config.data.split_file,
        baseline=baseline_of(config),
        rules=wanted.rules,
        choose_on=wanted.choose_on,
        points=steps.point_rule(config),
        resamples=wanted.resamples,
        seed=wanted.seed,
    )


def _steps(
    config: Config,
    train: Callable[[Config], object],
    pictures: Mapping[str, Pixels] | None,
    say: Callable[[str], None],
    told: ProgressCallback,
) -> tuple[Stage, ...]:
    out = config.out
    evaluation = f"{make_bundle.EVALUATION}/{evaluating.JSON}"
    exported = f"{steps.FOLDER}/{EXPORTED}"
    bundle = make_bundle.bundle_path(config).name
    judged = {"evaluate": _plain(config.evaluate), "parity": _plain(config.parity)}

    def export() -> None:
        steps.export(config, told)
        steps.quantise(config, told)
        if not config.export.capabilities:
            return
        if _RTX in find_tensorrt_packages():
            steps.compile_for_cards(config, on_step=told)
        else:
            say(f"export: no engines for cards ahead of time: {_RTX} is not installed")

    return (
        Stage(
            "run",
            lambda: {"data": _data(config), "train": _of_run(config.train)},
            lambda: train(config),
            (WEIGHTS, run_manifest.FILE),
        ),
        Stage(
            "evaluate",
            lambda: {
                "data": _data(config),
                "weights": _file_digest(out / WEIGHTS),
                "evaluate": judged["evaluate"],
                "rules": _optional(config.evaluate.rules),
                **_baseline(config),
            },
            lambda: evaluate(config, told),
            (evaluation,),
        ),
        Stage(
            "export",
            lambda: {
                "data": _data(config),
                "weights": _file_digest(out / WEIGHTS),
                "export": _plain(config.export),
                "size": config.train.input_size,
                **_compiler(config),
            },
            export,
            (exported,),
        ),
        Stage(
            "parity",
            lambda: {
                "data": _data(config),
                "export": _file_digest(out / exported),
                "variants": config.bundle.variants,
                **judged,
            },
            lambda: steps.prove(config, told),
            (steps.PARITY,),
        ),
        Stage(
            "bundle",
            lambda: {
                "export": _file_digest(out / exported),
                "parity": _file_digest(out / steps.PARITY),
                "evaluation": _file_digest(out / evaluation),
                "run": _file_digest(out / run_manifest.FILE),
                "settings": [_plain(config.train), _plain(config.bundle), judged],
                "content_check": _optional(config.bundle.content_check),
                "replaces": _optional(config.bundle.replaces),
                "credits": _optional(config.bundle.credits),
            },
            lambda: make_bundle.make_bundle(config, pictures),
            (bundle,),
        ),
    )


def _data(config: Config) -> Content:
    """The set as tables and split say, and the sizes of its pictures."""
    folder = config.data.dataset
    pictures = sorted((folder / "images").glob("*"))
    return {
        "split": splits.load_split(config.data.split_file or folder).digest,
        "tables": [_file_digest(folder / name) for name in TABLES],
        "pictures": _digest_of([[path.name, path.stat().st_size] for path in pictures]),
    }


def _baseline(config: Config) -> Content:
    """The baseline, where there is one."""
    path = baseline_of(config)
    return {} if path is None else {"baseline": _file_digest(path)}


def _compiler(config: Config) -> Content:
    """What would compile for cards, where that is wanted and it is installed.

    So a run that was exported without it gets its engines once it is there.
    """
    found = find_tensorrt_packages().get(_RTX) if config.export.capabilities else None
    return {} if found is None else {_RTX: found}


def _of_run(config: TrainConfig) -> Content:
    """Settings of a training, without those of the machine that it runs on."""
    return config.model_dump(mode="json", exclude={"device", "threads", "loaders", "weights"})


def _plain(section: Section) -> Content:
    plain: Content = section.model_dump(mode="json")
    return plain


def _optional(path: Path | None) -> str | None:
    return None if path is None else _file_digest(path)


def _stand(folder: Path, outputs: Mapping[str, str]) -> bool:
    """Whether the files are still what they were."""
    return all(
        (folder / name).is_file() and _file_digest(folder / name) == digest
        for name, digest in outputs.items()
    )


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror}") from error


def _digest_of(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read(folder: Path) -> dict[str, Any]:
    """What was done before; a file that is damaged means that nothing is known to be."""
    try:
        known = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(folder: Path, done: Mapping[str, Any]) -> None:
    with replace_files(folder) as place:
        place(FILE).write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
