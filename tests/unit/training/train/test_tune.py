"""The search: goes on where it was stopped and after what failed, says what was best."""

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
from training.train.checkpoints import CHECKPOINT, metrics_in
from training.train.distributed import ALONE
from training.train.loop import EpochReport
from training.train.run import run
from training.train.tune import best_config, folder_of, search

pytestmark = pytest.mark.training


DIVERGES = 1.5e30
"""A learning rate after whose first step the loss is no number."""


def stated(
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
def test_a_killed_search_begins_its_trial_again_and_goes_on(tmp_path: Path) -> None:
    config = stated(tmp_path, 2)
    # What a killed search leaves: a trial that is running for ever.
    killed = study_of(config).ask()
    drawn = {
        "learning_rate": killed.suggest_float("learning_rate", 1e-3, 3e-3),
        "class_gain": killed.suggest_categorical("class_gain", [0.5, 0.7]),
    }
    said: list[str] = []
    study = search(config, ALONE, say=said.append)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.get_trials()[1].params == drawn
    assert len(said) == 2
    assert not list(tmp_path.rglob("checkpoint.pt"))

    again = search(config, ALONE, say=said.append)  # nothing is left to do
    assert len(again.get_trials()) == 3
    assert len(said) == 2

    best = load_config(best_config(config, study))
    assert best.train.learning_rate == study.best_params["learning_rate"]
    assert best.data == config.data


@pytest.mark.slow
@pytest.mark.parametrize("epochs_done", [1, 2])
def test_what_a_trial_measured_before_a_kill_counts(tmp_path: Path, epochs_done: int) -> None:
    """Also where it was killed after its last epoch, before anybody was told."""
    config = stated(tmp_path, 1, epochs=2, space={"learning_rate": {"low": 1e-3, "high": 3e-3}})
    drawn = {"learning_rate": study_of(config).ask().suggest_float("learning_rate", 1e-3, 3e-3)}
    out = folder_of(config, drawn)

    def kill(report: EpochReport) -> None:
        if report.epoch + 1 == epochs_done:
            raise KeyboardInterrupt

    train = config.train.model_copy(update=drawn)
    with pytest.raises(KeyboardInterrupt):
        run(
            config.model_copy(update={"train": train, "out": out}),
            ALONE,
            tracked=False,
            on_epoch=kill,
        )
    # So good a first epoch that no later one of this toy can be better.
    stored = torch.load(out / CHECKPOINT, weights_only=True)
    assert sorted(stored["history"]["metrics"]) == list(range(epochs_done))
    stored["history"]["metrics"][0] = 0.75
    torch.save(stored, out / CHECKPOINT)

    trial = search(config, ALONE).get_trials()[-1]
    assert trial.params == drawn
    assert trial.value == 0.75
    assert sorted(trial.intermediate_values) == [0, 1]
    assert trial.intermediate_values[0] == 0.75


@pytest.mark.slow
def test_a_weak_trial_is_cut_short(tmp_path: Path) -> None:
    config = stated(
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
    said: list[str] = []
    weak = search(config, ALONE, say=said.append).get_trials()[-1]
    assert weak.state is TrialState.PRUNED
    assert sorted(weak.intermediate_values) == [0, 1]
    assert "cut short at" in said[0]
    assert not (folder_of(config, weak.params) / CHECKPOINT).exists()


@pytest.mark.slow
def test_a_trial_whose_loss_is_no_number_fails_and_the_search_goes_on(tmp_path: Path) -> None:
    config = stated(tmp_path, 1, space={"learning_rate": {"choices": [DIVERGES, 2e-3]}})
    for rate in (DIVERGES, 2e-3):
        study_of(config).enqueue_trial({"learning_rate": rate})
    said: list[str] = []
    study = search(config, ALONE, say=said.append)
    assert states(study) == ["FAIL", "COMPLETE"]
    assert "failed, the loss is no number in epoch 0" in said[0]
    assert str(DIVERGES) in said[0]

    again = search(config, ALONE, say=said.append)
    assert states(again) == ["FAIL", "COMPLETE"]  # what has failed is not begun again
    assert len(said) == 2


@pytest.mark.slow
def test_a_search_that_only_fails_ends(tmp_path: Path) -> None:
    config = stated(tmp_path, 2, space={"learning_rate": {"choices": [DIVERGES]}})
    said: list[str] = []
    with pytest.raises(TrainingError, match="5 trials failed one after the other"):
        search(config, ALONE, say=said.append)
    assert len(said) == 5
    assert states(study_of(config)) == ["FAIL"] * 5


def test_a_checkpoint_that_is_none_is_named(tmp_path: Path) -> None:
    assert metrics_in(tmp_path / "absent.pt") == {}
    (tmp_path / "torn.pt").write_bytes(b"torn")
    with pytest.raises(TrainingError, match=r"torn\.pt is no checkpoint"):
        metrics_in(tmp_path / "torn.pt")


def test_two_searches_do_not_share_a_storage(tmp_path: Path) -> None:
    import fcntl

    config = stated(tmp_path, 1)
    with (tmp_path / "tune.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TrainingError, match="another search"):
            search(config, ALONE)


def test_a_space_that_allows_what_cannot_be_is_named(tmp_path: Path) -> None:
    config = stated(tmp_path, 1)
    space = {"batch": {"low": -3, "high": -1}}
    tune = config.tune.model_validate({**config.tune.model_dump(), "space": space})
    with pytest.raises(TrainingError, match=r"tune\.space.*batch"):
        search(config.model_copy(update={"tune": tune}), ALONE)
    assert states(study_of(config)) == ["FAIL"]  # a later start does not begin with it
