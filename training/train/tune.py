"""Search for settings: Optuna's TPE sampler with pruning, resumable from a SQLite file.

Every trial is a run in a folder named by its settings. A search that was killed marks its
interrupted trial as failed and queues it first, to continue from that trial's own checkpoint. A
trial whose loss is not finite fails, and the search goes on. One search at a time uses a storage.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import optuna
import yaml
from optuna.trial import TrialState
from pydantic import ValidationError

from training.config import Config, Range, TrainConfig
from training.data.atomic_files import replace_files
from training.errors import Diverged, TrainingError
from training.progress import ProgressCallback, ignore_progress
from training.train.checkpoints import CHECKPOINT, load_metrics
from training.train.distributed import ProcessGroup
from training.train.loop import EpochReport
from training.train.run import load_training_data, run

BEST: Final = "best.yaml"
_SQLITE: Final = "sqlite:///"
_MAX_FAILURES: Final = 5
"""Consecutive failed trials after which the search ends."""


def search(
    config: Config,
    group: ProcessGroup,
    *,
    on_message: Callable[[str], None] = lambda _: None,
    on_progress: ProgressCallback = ignore_progress,
) -> optuna.Study:
    """Run trials until the configured number is done, including those of earlier calls.

    Args:
        config: `tune` is the search space, `train` all other settings.
        group: the device that trials compute on.
        on_message: called with a line per trial.
        on_progress: called with the trials done and in all; failed ones do not count.

    Returns:
        The study with at least one complete trial.

    Raises:
        TrainingError: another search uses the storage, several trials failed one after the other,
            none completed, or what a run raises beside `Diverged`.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan = config.tune
    load_training_data(config)  # so that bad data fails here, not in every trial
    with _locked(Path(plan.storage.removeprefix(_SQLITE))):
        study = _open_study(config)
        _requeue_interrupted(study)
        failed = 0
        while (done := _count_done(study)) < plan.trials:
            on_progress("trials", done, plan.trials)
            trial = study.ask()
            line, failure = _run_trial(study, trial, config, group)
            on_message(line)
            failed = failed + 1 if failure else 0
            if failed == _MAX_FAILURES:
                raise TrainingError(
                    f"{failed} trials in a row failed", hint="Narrow `tune.space`."
                ) from failure
        on_progress("trials", plan.trials, plan.trials)
    if not study.get_trials(states=(TrialState.COMPLETE,)):
        raise TrainingError("no trial completed: there are no best settings")
    return study


def write_best_config(config: Config, study: optuna.Study) -> Path:
    """Write the configuration with the best settings into the run's folder and return its path."""
    best = config.model_copy(update={"train": _apply(config.train, study.best_params)})
    with replace_files(config.out) as place:
        place(BEST).write_text(yaml.safe_dump(best.model_dump(mode="json"), sort_keys=False))
    return config.out / BEST


def trial_folder(config: Config, sampled: Mapping[str, Any]) -> Path:
    """Return the folder of the trial with these settings."""
    name = hashlib.sha256(json.dumps(sampled, sort_keys=True).encode()).hexdigest()[:12]
    return config.out / "trials" / name


def _open_study(config: Config) -> optuna.Study:
    plan = config.tune
    study = optuna.create_study(
        storage=plan.storage,
        study_name=plan.study,
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(plan.warm_trials, plan.warm_epochs),
    )
    # With one seed for every start, a resumed search would sample its first settings again.
    seed = config.train.seed + len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(seed=seed)
    return study


def _run_trial(
    study: optuna.Study, trial: optuna.Trial, config: Config, group: ProcessGroup
) -> tuple[str, Diverged | None]:
    """Run one trial; return a line about its result, and the error if it diverged."""
    sampled = {name: _suggest(trial, name, config) for name in config.tune.space}
    out = trial_folder(config, sampled)
    failure = None
    try:
        settings = _apply(config.train, sampled)
        callback = _PruningCallback(trial, load_metrics(out / CHECKPOINT))
        run(
            config.model_copy(update={"train": settings, "out": out}),
            group,
            resume=True,
            track=False,
            on_epoch=callback,
        )
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
        result = f"pruned at {callback.best:.4f}"
    except Diverged as error:
        study.tell(trial, state=TrialState.FAIL)
        result, failure = f"failed, {error.message},", error
    except TrainingError:
        # Without a checkpoint it must not be queued first at every later start.
        if not (out / CHECKPOINT).is_file():
            study.tell(trial, state=TrialState.FAIL)
        raise
    else:
        study.tell(trial, callback.best)
        result = f"{callback.best:.4f}"
    (out / CHECKPOINT).unlink(missing_ok=True)  # large, and not resumed from any more
    return f"trial {trial.number}: {result} with {sampled}", failure


class _PruningCallback:
    """Reports every metric to Optuna, keeps the best one, and prunes a weak trial.

    Args:
        trial: the trial that the metrics belong to.
        known: metrics by epoch from before the search was killed.
    """

    def __init__(self, trial: optuna.Trial, known: Mapping[int, float]) -> None:
        self.best = max(known.values(), default=-1.0)
        self._trial = trial
        for epoch, metric in known.items():
            trial.report(metric, epoch)

    def __call__(self, report: EpochReport) -> None:
        if report.metric is None:
            return
        self.best = max(self.best, report.metric)
        self._trial.report(report.metric, report.epoch)
        if self._trial.should_prune():
            raise optuna.TrialPruned


def _suggest(trial: optuna.Trial, name: str, config: Config) -> Any:  # noqa: ANN401 - any setting
    setting = config.tune.space[name]
    if not isinstance(setting, Range):
        return trial.suggest_categorical(name, setting.choices)
    if isinstance(setting.low, int) and isinstance(setting.high, int):
        return trial.suggest_int(name, setting.low, setting.high, log=setting.log)
    return trial.suggest_float(name, setting.low, setting.high, log=setting.log)


def _apply(train: TrainConfig, sampled: dict[str, Any]) -> TrainConfig:
    try:
        return TrainConfig.model_validate(train.model_dump() | sampled)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "train"
        raise TrainingError(f"tune.space allows an invalid value: {key}: {first['msg']}") from error


def _requeue_interrupted(study: optuna.Study) -> None:
    """Mark the trial that a killed search left running as failed, and queue its settings first."""
    for stale in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(stale.number, state=TrialState.FAIL)
        study.enqueue_trial(stale.params)


def _count_done(study: optuna.Study) -> int:
    return len(study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)))


@contextmanager
def _locked(storage: Path) -> Iterator[None]:
    """Lock the storage; the operating system frees the lock of a search that was killed."""
    storage.parent.mkdir(parents=True, exist_ok=True)
    with storage.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(f"another search is using {storage}") from error
        yield
