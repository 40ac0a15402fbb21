"""The starter at toy size: painted, and through every step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_agent.engines.bundle import Bundle, starter_bundle_path
from tests.support.training.models import detector_of
from tests.support.training.whole_runs import SHIPPED, Trained
from training.config import EvaluateConfig, ParityBounds, TrainConfig
from training.data import dataset, splits
from training.errors import TrainingError
from training.workflow import starter
from training.workflow.starter import StarterPlan

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.training,
    # Left to SQLAlchemy's pool by MLflow's own store.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


SIZE = 256


def toy(folder: Path) -> StarterPlan:
    return StarterPlan(
        out=folder / "out",
        work=folder / "work",
        version="1.2.3",
        train_images=6,
        held_out_images=4,
        calibration_images=4,
        fast_bias_correction=True,
        workers=1,
        train=TrainConfig(input_size=SIZE, small_size=SIZE),
        evaluate=EvaluateConfig(resamples=10),
        bounds=ParityBounds(map50_drop=1, sensitivity_drop=1),
    )


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> StarterPlan:
    return toy(tmp_path_factory.mktemp("starter"))


@pytest.fixture(scope="module")
def learnt() -> DetectionModel:
    """The shipped starter's network stands in for a trained one, because it finds something."""
    return detector_of(Bundle.open(starter_bundle_path()))


@pytest.fixture(scope="module")
def made(plan: StarterPlan, learnt: DetectionModel) -> Bundle:
    return starter.make_starter(plan, Trained(learnt))


def test_the_bundle_says_what_it_was_made_of(plan: StarterPlan, made: Bundle) -> None:
    assert made.path == plan.out / "starter-1.2.3.bundle"
    assert {it.name for it in made.manifest.engines} >= set(SHIPPED)
    assert made.manifest.provenance.command == plan.command
    card = made.read(made.manifest.model_card).decode()
    assert "not for clinical use" in card
    assert "6 images of synthetic radiographs" in card
    assert f"`{plan.command}`" in card
    assert "VinDr-CXR's" in card.split("## Credits")[1]


def test_what_is_there_is_not_made_again(
    plan: StarterPlan, made: Bundle, learnt: DetectionModel
) -> None:
    before = made.path.read_bytes()
    pictures = {p: p.stat().st_mtime_ns for p in (plan.work / "set" / "images").iterdir()}
    messages: list[str] = []
    training = Trained(learnt)
    starter.make_starter(plan, training, on_message=messages.append)
    assert training.times == 0
    assert {p: p.stat().st_mtime_ns for p in pictures} == pictures
    assert made.path.read_bytes() == before
    assert sum(line.endswith("skipped") for line in messages) == 5


def test_the_parts_are_the_frozen_split(plan: StarterPlan, made: Bundle) -> None:
    assert made
    sizes = {name: len(ids) for name, ids in splits.load_split(plan.work / "set").images.items()}
    assert sizes == {"train": 6, "valid": 4, "test": 4}
    assert dataset.load_dataset(plan.work / "set", "test")[0].image_id == "test-000000"
    with pytest.raises(TrainingError, match="the plan says"):
        starter.generate_set(replace(plan, train_images=7))


def test_the_command_states_all_that_it_takes_to_make_it_again(plan: StarterPlan) -> None:
    changes = {"activation": "hardswish", "learning_rate": 5e-4}
    other = replace(plan, name="starter-other", train=plan.train.model_copy(update=changes))
    assert "--activation hardswish" in other.command
    assert "--learning-rate 0.0005 --seed" in other.command
    assert other.command.endswith(" --name starter-other --version 1.2.3")
    assert plan.command.endswith(f" --seed {plan.seed} --version 1.2.3")
    start = {"weights": Path("runs/a/weights.pt"), "weights_sha256": "0" * 64}
    further = replace(
        plan, replaces=Path("old/a.bundle"), train=plan.train.model_copy(update=start)
    )
    assert " --weights weights.pt --replaces a.bundle " in further.command


def test_credits_name_who_gave_what(tmp_path: Path) -> None:
    (tmp_path / "attribution.csv").write_text(
        "filename,location,license,doi,url\n"
        "a.png,Hanoi,CC BY 4.0,10.1/x,\nb.png,Hanoi,CC BY 4.0,10.1/x,\nc.png,Rome,CC0,,http://c\n"
        "unused.png,Nowhere,secret,,\n"
    )
    text = starter._write_credits(tmp_path, ["b.png", "a.png", "c.png"])
    assert "| Hanoi | CC BY 4.0 | 10.1/x | a.png, b.png |" in text
    assert "| Rome | CC0 | http://c | c.png |" in text
    assert "secret" not in text


def test_without_terms_it_says_so(tmp_path: Path) -> None:
    assert "|  | not stated |  | a.png |" in starter._write_credits(tmp_path, ["a.png"])
    assert "Every chest was painted." in starter._write_credits(None, [])
