"""A run becomes a bundle: the same bytes each time, its proof inside, or none at all."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from edge_agent.engines.bundle import Bundle
from hilum.catalog import CATALOG
from tests.support.system.disks import room_for
from tests.support.training.whole_runs import PICTURES, SHIPPED, WholeRun
from training.config import Config, load_config
from training.errors import TrainingError
from training.evaluation.parity import ParityResult
from training.evaluation.results import Evaluation
from training.release.publish import metrics_of
from training.train import run_manifest
from training.workflow import make_bundle, parity_check

pytestmark = [
    pytest.mark.slow,
    pytest.mark.training,
    # Left to SQLAlchemy's pool by MLflow's own store.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def proven(whole: WholeRun) -> Path:
    """The configuration of a run that may be bundled."""
    return whole.path


@pytest.fixture
def bundle(whole: WholeRun) -> Bundle:
    return whole.done.bundle


def changed(path: Path, section: str, **values: object) -> Config:
    """The same configuration, but for these values."""
    config = load_config(path)
    settings = getattr(config, section).model_copy(update=values)
    return config.model_copy(update={section: settings})


def test_the_same_run_gives_the_same_bytes(proven: Path, bundle: Bundle) -> None:
    before = bundle.path.read_bytes()
    again = make_bundle.make_bundle(load_config(proven), PICTURES)
    assert again.path.read_bytes() == before
    assert again.digest == bundle.digest


def test_it_says_what_changed_what_was_declared_and_what_came_of_it(
    proven: Path, bundle: Bundle
) -> None:
    config, change = load_config(proven), bundle.manifest.change_control
    assert change is not None
    declared = {bound.name: bound.at_most for bound in change.protocol.bounds}
    assert declared == config.parity.model_dump()
    assert change.protocol.declared == run_manifest.load(config).digest
    assert change.modifications == "First version."
    assert "Knows no patient." in change.limits
    assert [engine.name for engine in bundle.manifest.engines] == SHIPPED
    parity = ParityResult.model_validate_json(bundle.read(make_bundle.PARITY_MEMBER))
    measured = {it.name: it for it in parity.variants}
    for result in change.results:
        if result.bound == "map50_drop":
            assert result.value == measured[result.variant].map50.drop
    assert {it.box_shift.worst_image for it in parity.variants} == {""}
    for engine in bundle.manifest.engines:
        assert engine.operating_points == measured[engine.name].points


def test_card_and_list_of_parts_are_of_this_very_model(proven: Path, bundle: Bundle) -> None:
    card = bundle.read("model-card.md").decode()
    evaluation = Evaluation.model_validate_json(bundle.read(make_bundle.EVALUATION_MEMBER))
    map50 = evaluation.metrics["map50"]
    assert map50 is not None
    assert f"| mAP@0.5 | {map50.value:.3f} | {map50.low:.3f} to {map50.high:.3f} |" in card
    assert all(f"| {finding.name} |" in card for finding in CATALOG)
    assert all(f"| {name} |" in card for name in ["torch, FP32", *SHIPPED])
    parts = json.loads(bundle.read("sbom.cdx.json"))
    assert parts["metadata"]["component"]["version"] == "1.2.3"
    assert parts["metadata"]["component"]["hashes"][0]["content"] == evaluation.subject.digest
    assert metrics_of(bundle)["map50"] == map50.value


def test_nothing_in_it_tells_where_it_was_made(proven: Path, bundle: Bundle) -> None:
    with zipfile.ZipFile(bundle.path) as archive:
        for name in archive.namelist():
            assert str(proven.parent).encode() not in archive.read(name), name


def test_settings_name_files_without_their_folders(proven: Path) -> None:
    kept = changed(
        proven, "evaluate", rules=Path("/home/me/rules.yaml"), baseline=Path("/home/me/a.bundle")
    )
    evaluate = json.loads(make_bundle._settings_json(kept))["evaluate"]
    assert (evaluate["rules"], evaluate["baseline"]) == ("rules.yaml", "a.bundle")
    assert "baseline" not in json.loads(make_bundle._settings_json(load_config(proven)))["evaluate"]


def test_outside_the_declared_bounds_there_is_no_bundle(proven: Path) -> None:
    config = load_config(proven)
    path = config.out / parity_check.PARITY
    before = path.read_bytes()
    content = json.loads(before)
    content["variants"][0]["problems"] = ["openvino-int8: mAP@0.5 is 0.0500 down"]
    try:
        path.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(TrainingError, match=r"mAP@0\.5 is 0\.0500 down"):
            make_bundle.make_bundle(changed(proven, "bundle", version="2.0.0"))
    finally:
        path.write_bytes(before)
    assert not (config.out / "toy-2.0.0.bundle").exists()


def test_bounds_cannot_be_moved_after_the_run_began(proven: Path) -> None:
    config = load_config(proven)
    moved = config.parity.model_copy(update={"map50_drop": 0.5})
    with pytest.raises(TrainingError, match=r"parity\.map50_drop is 0\.5, but 1 was declared"):
        run_manifest.load(config.model_copy(update={"parity": moved}))
    with pytest.raises(TrainingError, match="other bounds"):
        make_bundle.make_bundle(config.model_copy(update={"parity": moved}))


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (run_manifest.FILE, "which a run writes when it starts"),
        (parity_check.PARITY, "no result of parity"),
        ("evaluation/evaluation.json", "no evaluation"),
    ],
)
def test_what_is_missing_is_named(proven: Path, file: str, says: str) -> None:
    config = load_config(proven)
    path, aside = config.out / file, config.out / "aside"
    path.rename(aside)
    try:
        with pytest.raises(TrainingError, match=says):
            make_bundle.make_bundle(config)
    finally:
        aside.rename(path)


def test_a_variant_that_was_not_measured_is_not_shipped(proven: Path) -> None:
    with pytest.raises(TrainingError, match="names tensorrt-int9, which was not measured"):
        make_bundle.make_bundle(changed(proven, "bundle", variants=("tensorrt-int9",)))


def test_a_full_disk_leaves_the_bundle_that_was_there(proven: Path, bundle: Bundle) -> None:
    before = bundle.path.read_bytes()
    listed = sorted(bundle.path.parent.iterdir())
    room = len(before) // 2
    with room_for(room), pytest.raises(TrainingError, match=r"cannot write .*toy-1\.2\.3\.bundle"):
        make_bundle.make_bundle(changed(proven, "bundle", modifications="Another one."), PICTURES)
    assert bundle.path.read_bytes() == before
    assert sorted(bundle.path.parent.iterdir()) == listed
