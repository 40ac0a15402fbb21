"""The search for settings: it resumes, survives failed trials, and reports the best settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from tests.support.training.toy_sets import configured
from training.config import Config, load_config
from training.errors import TrainingError
from training.train.checkpoints import CHECKPOINT, load_metrics
from training.train.distributed import SINGLE_PROCESS
from training.train.loop import EpochReport
from training.train.run import run
from training.train.tune import search, trial_folder, write_best_config

pytestmark = [pytest.mark.training, pytest.mark.slow]


DIVERGES = 1.5e30
"""A learning rate after whose first step the loss is not finite."""


def tuning_config(
    folder: Path, trials: int, *, epochs: int = 1, space: dict[str, Any] | None = None, **more: Any
) -> Config:
    tune = {
        "trials": trials,
        "storage": f"sqlite:///{folder}/tune.db",
        "space": space
        or {
            "learning_rate": {"low": 1e-3, "high": 3e-3},
            "class_gain": {"choices": [0.5, 0.7]},
        },
        **more,
    }
    return load_config(configured(folder, train={"epochs": epochs}, tune=tune))


def study_of(config: Config) -> optuna.Study:
    return optuna.create_study(
        storage=config.tune.storage,
        study_name=config.tune.study,
        direction="maximize",
        load_if_exists=True,
    )


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.get_trials()]


@pytest.mark.slow
def test_a_killed_search_repeats_its_trial_and_goes_on(tmp_path: Path) -> None:
    config = tuning_config(tmp_path, 2)
    # A killed search leaves a trial in the state RUNNING.
    killed = study_of(config).ask()
    sampled = {
        "learning_rate": killed.suggest_float("learning_rate", 1e-3, 3e-3),
        "class_gain": killed.suggest_categorical("class_gain", [0.5, 0.7]),
    }
    messages: list[str] = []
    study = search(config, SINGLE_PROCESS, on_message=messages.append)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.get_trials()[1].params == sampled
    assert len(messages) == 2
    assert not list(tmp_path.rglob("checkpoint.pt"))

    again = search(config, SINGLE_PROCESS, on_message=messages.append)  # nothing is left to do
    assert len(again.get_trials()) == 3
    assert len(messages) == 2

    best = load_config(write_best_config(config, study))
    assert best.train.learning_rate == study.best_params["learning_rate"]
    assert best.data == config.data


@pytest.mark.slow
@pytest.mark.parametrize("epochs_done", [1, 2])
def test_metrics_from_before_a_kill_count(tmp_path: Path, epochs_done: int) -> None:
    """Also where it was killed after its last epoch, before the result was reported."""
    config = tuning_config(
        tmp_path, 1, epochs=2, space={"learning_rate": {"low": 1e-3, "high": 3e-3}}
    )
    sampled = {"learning_rate": study_of(config).ask().suggest_float("learning_rate", 1e-3, 3e-3)}
    out = trial_folder(config, sampled)

    def kill(report: EpochReport) -> None:
        if report.epoch + 1 == epochs_done:
            raise KeyboardInterrupt

    train = config.train.model_copy(update=sampled)
    with pytest.raises(KeyboardInterrupt):
        run(
            config.model_copy(update={"train": train, "out": out}),
            SINGLE_PROCESS,
            track=False,
            on_epoch=kill,
        )
    # A first metric that no later epoch of this toy set can exceed.
    stored = torch.load(out / CHECKPOINT, weights_only=True)
    assert sorted(stored["history"]["metrics"]) == list(range(epochs_done))
    stored["history"]["metrics"][0] = 0.75
    torch.save(stored, out / CHECKPOINT)

    trial = search(config, SINGLE_PROCESS).get_trials()[-1]
    assert trial.params == sampled
    assert trial.value == 0.75
    assert sorted(trial.intermediate_values) == [0, 1]
    assert trial.intermediate_values[0] == 0.75


@pytest.mark.slow
def test_a_weak_trial_is_pruned(tmp_path: Path) -> None:
    config = tuning_config(
        tmp_path,
        2,
        epochs=4,
        space={"learning_rate": {"low": 1e-3, "high": 3e-3}},
        warm_trials=1,
        warm_epochs=1,
    )
    study_of(config).add_trial(
        optuna.trial.create_trial(
            params={"learning_rate": 2e-3},
            distributions={"learning_rate": FloatDistribution(1e-3, 3e-3)},
            intermediate_values=dict.fromkeys(range(4), 0.99),
            value=0.99,
        )
    )
    messages: list[str] = []
    weak = search(config, SINGLE_PROCESS, on_message=messages.append).get_trials()[-1]
    assert weak.state is TrialState.PRUNED
    assert sorted(weak.intermediate_values) == [0, 1]
    assert "pruned at" in messages[0]
    assert not (trial_folder(config, weak.params) / CHECKPOINT).exists()


@pytest.mark.slow
def test_a_trial_whose_loss_is_not_finite_fails_and_the_search_goes_on(tmp_path: Path) -> None:
    config = tuning_config(tmp_path, 1, space={"learning_rate": {"choices": [DIVERGES, 2e-3]}})
    for rate in (DIVERGES, 2e-3):
        study_of(config).enqueue_trial({"learning_rate": rate})
    messages: list[str] = []
    study = search(config, SINGLE_PROCESS, on_message=messages.append)
    assert states(study) == ["FAIL", "COMPLETE"]
    assert "failed, the loss is not finite in epoch 0" in messages[0]
    assert str(DIVERGES) in messages[0]

    again = search(config, SINGLE_PROCESS, on_message=messages.append)
    assert states(again) == ["FAIL", "COMPLETE"]  # a failed trial is not repeated
    assert len(messages) == 2


@pytest.mark.slow
def test_a_search_that_only_fails_ends(tmp_path: Path) -> None:
    config = tuning_config(tmp_path, 2, space={"learning_rate": {"choices": [DIVERGES]}})
    messages: list[str] = []
    with pytest.raises(TrainingError, match="5 trials in a row failed"):
        search(config, SINGLE_PROCESS, on_message=messages.append)
    assert len(messages) == 5
    assert states(study_of(config)) == ["FAIL"] * 5


def test_an_invalid_checkpoint_is_named(tmp_path: Path) -> None:
    assert load_metrics(tmp_path / "absent.pt") == {}
    (tmp_path / "torn.pt").write_bytes(b"torn")
    with pytest.raises(TrainingError, match=r"torn\.pt is no checkpoint"):
        load_metrics(tmp_path / "torn.pt")


def test_two_searches_do_not_share_a_storage(tmp_path: Path) -> None:
    import fcntl

    config = tuning_config(tmp_path, 1)
    with (tmp_path / "tune.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TrainingError, match="another search"):
            search(config, SINGLE_PROCESS)


def test_a_space_with_invalid_values_is_named(tmp_path: Path) -> None:
    config = tuning_config(tmp_path, 1)
    space = {"batch": {"low": -3, "high": -1}}
    tune = config.tune.model_validate({**config.tune.model_dump(), "space": space})
    with pytest.raises(TrainingError, match=r"tune\.space.*batch"):
        search(config.model_copy(update={"tune": tune}), SINGLE_PROCESS)
    assert states(study_of(config)) == ["FAIL"]  # a later start does not repeat it
