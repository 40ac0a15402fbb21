"""All steps at toy size: once, again with nothing to do, and from where it was stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.whole_runs import PICTURES, Trained, WholeRun
from training import pipeline
from training.config import Config, load_config
from training.data import splits
from training.errors import TrainingError

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel

pytestmark = [
    pytest.mark.training,
    # Left to SQLAlchemy's pool by MLflow's own store.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

ALL = ["run", "evaluate", "export", "parity", "bundle"]


@pytest.fixture
def path(whole: WholeRun) -> Path:
    return whole.path


def again(path: Path, network: DetectionModel, config: Config | None = None) -> list[str]:
    """Run all once more; the names of the steps that were done."""
    said: list[str] = []
    of = config or load_config(path)
    pipeline.run_all(of, Trained(network), pictures=PICTURES, say=said.append)
    return [line.removesuffix(": done") for line in said if line.endswith(": done")]


@pytest.mark.slow
def test_all_is_done_once_and_then_no_more(
    path: Path, whole: WholeRun, network: DetectionModel
) -> None:
    done, said, training = whole.done, whole.said, whole.training
    assert [line for line in said if line.endswith(": done")] == [f"{it}: done" for it in ALL]
    assert training.times == 1
    assert (done.published.version, done.published.new) == ("1", True)
    before = done.bundle.path.read_bytes()
    assert again(path, network) == []
    assert done.bundle.path.read_bytes() == before


@pytest.mark.slow
def test_only_what_rests_on_a_change_is_done_again(
    path: Path, whole: WholeRun, network: DetectionModel
) -> None:
    config = load_config(path)
    other = config.bundle.model_copy(update={"modifications": "Said better."})
    changed = config.model_copy(update={"bundle": other})
    assert again(path, network, changed) == ["bundle"]
    assert again(path, network) == ["bundle"]
    (config.out / "evaluation" / "evaluation.json").unlink()
    assert again(path, network) == ["evaluate"]


@pytest.mark.slow
def test_a_step_that_fails_keeps_those_before_it(
    path: Path,
    whole: WholeRun,
    network: DetectionModel,
    tmp_path: Path,
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules: [{metric: map50, at_least: 2}]", encoding="utf-8")
    config = load_config(path)
    strict = config.evaluate.model_copy(update={"rules": rules})
    before = sorted(it for it in config.out.rglob("*") if it.is_file())
    bundle = whole.done.bundle.path.read_bytes()
    with pytest.raises(TrainingError, match="the gate does not let it pass: map50 at least 2"):
        again(path, network, config.model_copy(update={"evaluate": strict}))
    assert sorted(it for it in config.out.rglob("*") if it.is_file()) == before
    assert whole.done.bundle.path.read_bytes() == bundle
    assert again(path, network) == ["evaluate"]


def test_a_moved_bound_is_refused_before_anything_is_done(
    path: Path, whole: WholeRun, network: DetectionModel
) -> None:
    config = load_config(path)
    moved = config.parity.model_copy(update={"map50_drop": 0.2})
    with pytest.raises(TrainingError, match=r"0\.2, but 1 was declared when the run began"):
        again(path, network, config.model_copy(update={"parity": moved}))


def test_an_empty_split_is_refused_before_anything_is_done(
    path: Path, network: DetectionModel, tmp_path: Path
) -> None:
    config = load_config(path)
    shutil.copytree(config.data.dataset, tmp_path / "set")
    split = splits.load(config.data.dataset)
    images = dict(split.images) | {"test": ()}
    emptied = type(split)(split.seed, images).document()
    (tmp_path / "set" / "split.json").write_text(json.dumps(emptied), encoding="utf-8")
    data = config.data.model_copy(update={"dataset": tmp_path / "set"})
    training = Trained(network)
    elsewhere = config.model_copy(update={"data": data, "out": tmp_path / "run"})
    with pytest.raises(TrainingError, match="the split 'test' is empty"):
        pipeline.run_all(elsewhere, training)
    assert training.times == 0
    assert not (tmp_path / "run").exists()


def test_the_example_that_newcomers_run_is_a_configuration() -> None:
    example = Path(__file__).parents[3] / "docs" / "examples" / "toy.yaml"
    assert load_config(example).bundle.name == "toy"
