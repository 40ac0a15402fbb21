"""Search for settings: Optuna's TPE, weak trials cut short, resumable from a SQLite file.

Every trial is a run in a folder named by its settings. A killed search fails the trial that it was
in and begins it again first, from that trial's own checkpoint. A trial whose loss becomes no number
has failed, and the search goes on. One search at a time uses a storage.
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
from training.train.checkpoints import CHECKPOINT, metrics_in
from training.train.distributed import ProcessGroup
from training.train.loop import EpochReport
from training.train.run import read_sets, run

BEST: Final = "best.yaml"
_SQLITE: Final = "sqlite:///"
_GIVE_UP: Final = 5
"""So many failed trials one after the other are no accident of their settings."""


def search(
    config: Config,
    group: ProcessGroup,
    *,
    say: Callable[[str], None] = lambda _: None,
    told: Callable[[tuple[int, int]], None] = lambda _: None,
) -> optuna.Study:
    """Run trials until as many are done as configured, those of earlier calls included.

    Args:
        config: `tune` says what is searched, `train` all the rest.
        group: where trials compute.
        say: told one line per trial.
        told: trials done and wanted; failed ones count for nothing.

    Raises:
        TrainingError: another search uses the storage, several trials failed one after the other,
            none came to its end, or what a run raises beside `Diverged`.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan = config.tune
    read_sets(config)  # what is wrong with the data is said here, not by every trial
    with _alone(Path(plan.storage.removeprefix(_SQLITE))):
        study = _study(config)
        _begin_again(study)
        failed = 0
        while (done := _done(study)) < plan.trials:
            told((done, plan.trials))
            trial = study.ask()
            line, failure = _trial(study, trial, config, group)
            say(line)
            failed = failed + 1 if failure else 0
            if failed == _GIVE_UP:
                raise TrainingError(
                    f"{failed} trials failed one after the other", hint="Narrow `tune.space`."
                ) from failure
        told((plan.trials, plan.trials))
    if not study.get_trials(states=(TrialState.COMPLETE,)):
        raise TrainingError("no trial came to its end: nothing is known to be best")
    return study


def best_config(config: Config, study: optuna.Study) -> Path:
    """Write the configuration with the best settings into the run's folder; its path."""
    best = config.model_copy(update={"train": _settings(config.train, study.best_params)})
    with replace_files(config.out) as place:
        place(BEST).write_text(yaml.safe_dump(best.model_dump(mode="json"), sort_keys=False))
    return config.out / BEST


def folder_of(config: Config, drawn: Mapping[str, Any]) -> Path:
    """Where the trial with these settings runs."""
    name = hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()[:12]
    return config.out / "trials" / name


def _study(config: Config) -> optuna.Study:
    plan = config.tune
    study = optuna.create_study(
        storage=plan.storage,
        study_name=plan.study,
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(plan.warm_trials, plan.warm_epochs),
    )
    # With the same seed at each start, a search that goes on would draw its first settings again.
    seed = config.train.seed + len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(seed=seed)
    return study


def _trial(
    study: optuna.Study, trial: optuna.Trial, config: Config, group: ProcessGroup
) -> tuple[str, Diverged | None]:
    """One trial; what came of it, in a line, and why it failed if it did."""
    drawn = {name: _draw(trial, name, config) for name in config.tune.space}
    out = folder_of(config, drawn)
    failure = None
    try:
        settings = _settings(config.train, drawn)
        judge = _PruningCallback(trial, metrics_in(out / CHECKPOINT))
        run(
            config.model_copy(update={"train": settings, "out": out}),
            group,
            resume=True,
            tracked=False,
            on_epoch=judge,
        )
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
        said = f"cut short at {judge.best:.4f}"
    except Diverged as error:
        study.tell(trial, state=TrialState.FAIL)
        said, failure = f"failed, {error.message},", error
    except TrainingError:
        # With nothing to go on from, it must not be what every later start begins with.
        if not (out / CHECKPOINT).is_file():
            study.tell(trial, state=TrialState.FAIL)
        raise
    else:
        study.tell(trial, judge.best)
        said = f"{judge.best:.4f}"
    (out / CHECKPOINT).unlink(missing_ok=True)  # the large part, and not gone on from any more
    return f"trial {trial.number}: {said} with {drawn}", failure


class _PruningCallback:
    """Tells Optuna every metric, keeps the best one, and ends a trial that is weak.

    Args:
        trial: what is judged.
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


def _draw(trial: optuna.Trial, name: str, config: Config) -> Any:  # noqa: ANN401 - any setting
    asked = config.tune.space[name]
    if not isinstance(asked, Range):
        return trial.suggest_categorical(name, asked.choices)
    if isinstance(asked.low, int) and isinstance(asked.high, int):
        return trial.suggest_int(name, asked.low, asked.high, log=asked.log)
    return trial.suggest_float(name, asked.low, asked.high, log=asked.log)


def _settings(train: TrainConfig, drawn: dict[str, Any]) -> TrainConfig:
    try:
        return TrainConfig.model_validate(train.model_dump() | drawn)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "train"
        raise TrainingError(f"tune.space allows what cannot be: {key}: {first['msg']}") from error


def _begin_again(study: optuna.Study) -> None:
    """Fail the trial that a killed search was in, and put its settings first in line."""
    for stale in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(stale.number, state=TrialState.FAIL)
        study.enqueue_trial(stale.params)


def _done(study: optuna.Study) -> int:
    return len(study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)))


@contextmanager
def _alone(storage: Path) -> Iterator[None]:
    """Hold the storage; a search that was killed holds nothing any more."""
    storage.parent.mkdir(parents=True, exist_ok=True)
    with storage.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(f"another search is using {storage}") from error
        yield
