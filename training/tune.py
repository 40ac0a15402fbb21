"""Search for settings: Optuna's TPE, weak trials cut short, resumable from a SQLite file.

Every trial is a run in a folder named by its settings. A killed search fails the trial that it was
in and begins it again first, from that trial's own checkpoint. One search at a time uses a storage.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import optuna
import yaml
from optuna.trial import TrialState
from pydantic import ValidationError

from training.checkpoints import CHECKPOINT
from training.config import Config, Range, TrainConfig
from training.data.outputs import replacing
from training.distributed import Group
from training.errors import TrainingError
from training.run import run
from training.train import EpochReport

BEST: Final = "best.yaml"
_SQLITE: Final = "sqlite:///"


def search(
    config: Config,
    group: Group,
    *,
    say: Callable[[str], None] = lambda _: None,
    told: Callable[[tuple[int, int]], None] = lambda _: None,
) -> optuna.Study:
    """Run trials until as many are done as configured, those of earlier calls included.

    Args:
        config: `tune` says what is searched, `train` all the rest.
        group: where trials compute.
        say: told one line per trial.
        told: trials done and wanted.

    Raises:
        TrainingError: another search uses the storage, every trial failed, or what a run raises.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan = config.tune
    with _alone(Path(plan.storage.removeprefix(_SQLITE))):
        study = optuna.create_study(
            storage=plan.storage,
            study_name=plan.study,
            load_if_exists=True,
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=config.train.seed),
            pruner=optuna.pruners.MedianPruner(plan.warm_trials, plan.warm_epochs),
        )
        _begin_again(study)
        while (done := _done(study)) < plan.trials:
            told((done, plan.trials))
            trial = study.ask()
            say(_trial(study, trial, config, group))
        told((plan.trials, plan.trials))
    if not study.get_trials(states=(TrialState.COMPLETE,)):
        raise TrainingError("no trial came to its end: nothing is known to be best")
    return study


def best_config(config: Config, study: optuna.Study) -> Path:
    """Write the configuration with the best settings into the run's folder; its path."""
    best = config.model_copy(update={"train": _settings(config.train, study.best_params)})
    with replacing(config.out) as place:
        place(BEST).write_text(yaml.safe_dump(best.model_dump(mode="json"), sort_keys=False))
    return config.out / BEST


def _trial(study: optuna.Study, trial: optuna.Trial, config: Config, group: Group) -> str:
    """One trial; what came of it, in a line."""
    drawn = {name: _draw(trial, name, config) for name in config.tune.space}
    settings = _settings(config.train, drawn)
    name = hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()[:12]
    out = config.out / "trials" / name
    best = -1.0

    def judge(report: EpochReport) -> None:
        nonlocal best
        if report.metric is None:
            return
        best = max(best, report.metric)
        trial.report(report.metric, report.epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        run(
            config.model_copy(update={"train": settings, "out": out}),
            group,
            resume=True,
            tracked=False,
            on_epoch=judge,
        )
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
        said = f"cut short at {best:.4f}"
    else:
        study.tell(trial, best)
        said = f"{best:.4f}"
    (out / CHECKPOINT).unlink(missing_ok=True)  # the large part, and not gone on from any more
    return f"trial {trial.number}: {said} with {drawn}"


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
