"""The stages of the pipeline: what each depends on, what it does, and which files it writes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge_agent.engines.base import Pixels
from edge_agent.engines.runtimes.tensorrt_runtime import find_tensorrt_packages
from training.config import Config, Section, TrainConfig
from training.data import splits
from training.errors import TrainingError
from training.evaluation import run as evaluating
from training.export.artifacts import FILE as EXPORT_MANIFEST
from training.progress import ProgressCallback, ignore_progress
from training.train import run_manifest
from training.train.checkpoints import WEIGHTS
from training.train.distributed import choose_device
from training.workflow import export, make_bundle, parity_check, quantization

TABLES: Final = ("images.csv", "annotations.csv")
COMPILER: Final = "tensorrt_rtx"
"""The package that compiles engines for GPUs without having one."""

_EVALUATION: Final = f"{make_bundle.EVALUATION}/{evaluating.JSON}"
_EXPORTED: Final = f"{export.FOLDER}/{EXPORT_MANIFEST}"

Content = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the pipeline.

    Attributes:
        name: as shown, and as recorded in `steps.json`.
        inputs: return what the stage depends on, as JSON.
        act: do the stage.
        outputs: the files that it writes, relative to the run's folder.
    """

    name: str
    inputs: Callable[[], Content]
    act: Callable[[], object]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The stages of a configured run, each as a method that returns its inputs or does it."""

    config: Config
    train: Callable[[Config], object]
    pictures: Mapping[str, Pixels] | None
    on_message: Callable[[str], None]
    on_progress: ProgressCallback

    def stages(self) -> tuple[Stage, ...]:
        """Return the stages in order."""
        bundle = make_bundle.bundle_path(self.config).name
        return (
            Stage("run", self._run_inputs, self._run, (WEIGHTS, run_manifest.FILE)),
            Stage("evaluate", self._evaluate_inputs, self._evaluate, (_EVALUATION,)),
            Stage("export", self._export_inputs, self._export, (_EXPORTED,)),
            Stage("parity", self._parity_inputs, self._prove, (parity_check.PARITY,)),
            Stage("bundle", self._bundle_inputs, self._make_bundle, (bundle,)),
        )

    def _run_inputs(self) -> Content:
        return {"data": _data(self.config), "train": _training_settings(self.config.train)}

    def _run(self) -> None:
        self.train(self.config)

    def _evaluate_inputs(self) -> Content:
        return {
            "data": _data(self.config),
            "weights": self._digest(WEIGHTS),
            "evaluate": _settings(self.config.evaluate),
            "rules": _optional_digest(self.config.evaluate.rules),
            **_baseline(self.config),
        }

    def _evaluate(self) -> None:
        evaluate(self.config, self.on_progress)

    def _export_inputs(self) -> Content:
        return {
            "data": _data(self.config),
            "weights": self._digest(WEIGHTS),
            "export": _settings(self.config.export),
            "size": self.config.train.input_size,
            **_compiler(self.config),
        }

    def _export(self) -> None:
        export.export_graphs(self.config, self.on_progress)
        quantization.quantize_graphs(self.config, self.on_progress)
        if not self.config.export.capabilities:
            return
        if COMPILER in find_tensorrt_packages():
            export.compile_engines(self.config, on_progress=self.on_progress)
        else:
            self.on_message(f"export: no TensorRT engines are compiled: {COMPILER} is missing")

    def _parity_inputs(self) -> Content:
        return {
            "data": _data(self.config),
            "export": self._digest(_EXPORTED),
            "variants": self.config.bundle.variants,
            **self._judged_by(),
        }

    def _prove(self) -> None:
        parity_check.check_parity(self.config, self.on_progress)

    def _bundle_inputs(self) -> Content:
        bundle = self.config.bundle
        return {
            "export": self._digest(_EXPORTED),
            "parity": self._digest(parity_check.PARITY),
            "evaluation": self._digest(_EVALUATION),
            "run_manifest": self._digest(run_manifest.FILE),
            "settings": [_settings(self.config.train), _settings(bundle), self._judged_by()],
            "content_check": _optional_digest(bundle.content_check),
            "replaces": _optional_digest(bundle.replaces),
            "credits": _optional_digest(bundle.credits),
        }

    def _make_bundle(self) -> None:
        make_bundle.make_bundle(self.config, self.pictures)

    def _judged_by(self) -> Content:
        return {
            "evaluate": _settings(self.config.evaluate),
            "parity": _settings(self.config.parity),
        }

    def _digest(self, name: str) -> str:
        return file_digest(self.config.out / name)


def evaluate(config: Config, on_progress: ProgressCallback = ignore_progress) -> None:
    """Evaluate the run's weights as configured, on the compute device that they were trained on.

    Args:
        config: the configuration of the run; the evaluation is written to its folder.
        on_progress: called with the progress of each stage of the evaluation.

    Raises:
        TrainingError: a split, the rules, the baseline, the weights or the compute device cannot
            be used, or an acceptance rule fails.
    """
    request = evaluation_request(config, str(choose_device(config.train.device)))
    evaluation = evaluating.run_evaluation(request, on_progress)
    if failed := [result for result in evaluation.acceptance or () if not result.passed]:
        outcomes = "; ".join(f"{result.rule}: {result.outcome}" for result in failed)
        raise TrainingError(
            f"the model fails acceptance rules: {outcomes}",
            hint=f"Look at {config.out / make_bundle.EVALUATION / evaluating.HTML}.",
        )


def evaluation_request(config: Config, compute_device: str) -> evaluating.EvaluationRequest:
    """Return the request for the evaluation of the run's weights, as configured."""
    settings, train = config.evaluate, config.train
    return evaluating.EvaluationRequest(
        subject=evaluating.WeightsFile(
            config.out / WEIGHTS, train.architecture, train.input_size, compute_device
        ),
        split=settings.split,
        out=config.out / make_bundle.EVALUATION,
        data=config.data.dataset,
        split_file=config.data.split_file,
        baseline=baseline_path(config),
        rules=settings.rules,
        choose_on=settings.choose_on,
        points=parity_check.threshold_rule(config),
        resamples=settings.resamples,
        seed=settings.seed,
    )


def baseline_path(config: Config) -> Path | None:
    """Return the bundle that the weights are compared with: the baseline, else the one replaced."""
    return config.evaluate.baseline or config.bundle.replaces


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        TrainingError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror}") from error


def content_digest(content: object) -> str:
    """Return the SHA-256 of content as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _data(config: Config) -> Content:
    """Return the digests of the set's tables, its split, and its images' names and sizes."""
    folder = config.data.dataset
    images = sorted((folder / "images").glob("*"))
    return {
        "split": splits.load_split(config.data.split_file or folder).digest,
        "tables": [file_digest(folder / name) for name in TABLES],
        "images": content_digest([[path.name, path.stat().st_size] for path in images]),
    }


def _baseline(config: Config) -> Content:
    path = baseline_path(config)
    return {} if path is None else {"baseline": file_digest(path)}


def _compiler(config: Config) -> Content:
    """Return the version of the TensorRT compiler, if engines are configured and it is installed.

    A run that was exported without the compiler thus gets its engines once it is installed.
    """
    version = find_tensorrt_packages().get(COMPILER) if config.export.capabilities else None
    return {} if version is None else {COMPILER: version}


def _training_settings(config: TrainConfig) -> Content:
    """Return the settings of a training without those of the machine that it runs on."""
    return config.model_dump(mode="json", exclude={"device", "threads", "loaders", "weights"})


def _settings(section: Section) -> Content:
    settings: Content = section.model_dump(mode="json")
    return settings


def _optional_digest(path: Path | None) -> str | None:
    return None if path is None else file_digest(path)
