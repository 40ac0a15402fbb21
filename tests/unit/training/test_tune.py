"""The search: goes on where it was stopped, keeps within its space, says what was best."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from tests.support.toy_sets import configured
from training.config import Config, load_config
from training.distributed import ALONE
from training.errors import TrainingError
from training.tune import best_config, search

pytestmark = pytest.mark.training


def stated(folder: Path, trials: int) -> Config:
    tune = {
        "trials": trials,
        "storage": f"sqlite:///{folder}/tune.db",
        "space": {
            "learning_rate": {"low": 1e-3, "high": 3e-3},
            "class_gain": {"choices": [0.5, 0.7]},
        },
    }
    return load_config(configured(folder, train={"epochs": 1}, tune=tune))


@pytest.mark.slow
def test_a_killed_search_begins_its_trial_again_and_goes_on(tmp_path: Path) -> None:
    config = stated(tmp_path, 2)
    # What a killed search leaves: a trial that is running for ever.
    killed = optuna.create_study(
        storage=config.tune.storage, study_name=config.tune.study, direction="maximize"
    ).ask()
    drawn = {
        "learning_rate": killed.suggest_float("learning_rate", 1e-3, 3e-3),
        "class_gain": killed.suggest_categorical("class_gain", [0.5, 0.7]),
    }
    said: list[str] = []
    study = search(config, ALONE, say=said.append)
    states = [trial.state.name for trial in study.get_trials()]
    assert states == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.get_trials()[1].params == drawn
    assert len(said) == 2
    assert not list(tmp_path.rglob("checkpoint.pt"))

    again = search(config, ALONE, say=said.append)  # nothing is left to do
    assert len(again.get_trials()) == 3
    assert len(said) == 2

    best = load_config(best_config(config, study))
    assert best.train.learning_rate == study.best_params["learning_rate"]
    assert best.data == config.data


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
