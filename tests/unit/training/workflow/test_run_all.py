"""All steps at toy size: once, again with nothing to do, and from where it was stopped.

The tests of the bundle that comes of them are in this file too, because the tests of a file run in
one process, and the run takes half a minute of processor time.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from edge_agent.engines.bundle import Bundle
from edge_agent.engines.runtimes.tensorrt_runtime import find_tensorrt_packages
from edge_agent.errors import EngineFailed, HilumError
from hilum.catalog import CATALOG
from tests.conftest import skip_or_fail
from tests.support.system.disks import room_for
from tests.support.training.whole_runs import PICTURES, SHIPPED, Trained, WholeRun
from training.bundle.variants import TRT_FP16
from training.config import Config, load_config
from training.data import splits
from training.errors import TrainingError
from training.evaluation.parity import ParityResult
from training.evaluation.results import Evaluation
from training.export import artifacts
from training.release.publish import metrics_of
from training.train import run_manifest
from training.workflow import export, make_bundle, parity_check, run_all, stages

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel

pytestmark = [
    pytest.mark.slow,
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
    messages: list[str] = []
    of = config or load_config(path)
    run_all.run_all(of, Trained(network), pictures=PICTURES, on_message=messages.append)
    return [line.removesuffix(": done") for line in messages if line.endswith(": done")]


def test_all_is_done_once_and_then_no_more(
    path: Path, whole: WholeRun, network: DetectionModel
) -> None:
    done, messages, training = whole.done, whole.messages, whole.training
    assert [line for line in messages if line.endswith(": done")] == [f"{it}: done" for it in ALL]
    assert training.times == 1
    assert (done.published.version, done.published.new) == ("1", True)
    before = done.bundle.path.read_bytes()
    assert again(path, network) == []
    assert done.bundle.path.read_bytes() == before


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
    with pytest.raises(TrainingError, match="the model fails acceptance rules: map50 at least 2"):
        again(path, network, config.model_copy(update={"evaluate": strict}))
    assert sorted(it for it in config.out.rglob("*") if it.is_file()) == before
    assert whole.done.bundle.path.read_bytes() == bundle
    assert again(path, network) == ["evaluate"]


def test_a_moved_bound_is_refused_before_anything_is_done(
    path: Path, whole: WholeRun, network: DetectionModel
) -> None:
    config = load_config(path)
    moved = config.parity.model_copy(update={"map50_drop": 0.2})
    with pytest.raises(TrainingError, match=r"0\.2, but 1 was declared when the run started"):
        again(path, network, config.model_copy(update={"parity": moved}))


def test_an_empty_split_is_refused_before_anything_is_done(
    path: Path, network: DetectionModel, tmp_path: Path
) -> None:
    config = load_config(path)
    shutil.copytree(config.data.dataset, tmp_path / "set")
    split = splits.load_split(config.data.dataset)
    images = dict(split.images) | {"test": ()}
    emptied = type(split)(split.seed, images).to_document()
    (tmp_path / "set" / "split.json").write_text(json.dumps(emptied), encoding="utf-8")
    data = config.data.model_copy(update={"dataset": tmp_path / "set"})
    training = Trained(network)
    elsewhere = config.model_copy(update={"data": data, "out": tmp_path / "run"})
    with pytest.raises(TrainingError, match="the split 'test' is empty"):
        run_all.run_all(elsewhere, training)
    assert training.times == 0
    assert not (tmp_path / "run").exists()


def elsewhere(path: Path, out: Path, **sections: dict[str, Any]) -> Config:
    """The same configuration with another folder and other values, checked as from a file."""
    settings = load_config(path).model_dump(mode="json", exclude_unset=True) | {"out": str(out)}
    for name, values in sections.items():
        settings[name] = settings.get(name, {}) | values
    return Config.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"export": {"calibration_images": 0}}, r"export\.calibration_images is 0"),
        ({"export": {"max_drop": 0.1, "control_on": "exam"}}, "there is no split 'exam'"),
        ({"evaluate": {"rules": "no.yaml"}}, r"cannot read the rules no\.yaml"),
        ({"evaluate": {"rules": "{tmp}/map5.yaml"}}, "no metric 'map5'; did you mean 'map50'"),
        ({"evaluate": {"rules": "{tmp}/difference.yaml"}}, "no metric 'difference/map50'"),
        ({"evaluate": {"baseline": "{tmp}/map5.yaml"}}, r"map5\.yaml"),
        (
            {"bundle": {"content_check": "no.zip"}},
            r"bundle\.content_check: no\.zip holds no content check",
        ),
        (
            {"bundle": {"content_check": "{bundle}"}},
            r"bundle\.content_check: .*toy-1\.2\.3\.bundle holds no content check",
        ),
        ({"bundle": {"replaces": "no.bundle"}}, r"bundle\.replaces: .*no\.bundle"),
        ({"bundle": {"credits": "no.md"}}, r"bundle\.credits: cannot read the credits no\.md"),
        ({"bundle": {"variants": ["openvino-int4"]}}, "openvino-int4, which no bundle holds"),
    ],
)
def test_what_must_fail_at_the_end_is_refused_at_the_beginning(
    whole: WholeRun, network: DetectionModel, tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    for name, metric in (("map5", "map5"), ("difference", "difference/map50")):
        rules = f"rules: [{{metric: {metric}, at_least: 0.1}}]"
        (tmp_path / f"{name}.yaml").write_text(rules, encoding="utf-8")
    text = json.dumps(settings).replace("{tmp}", str(tmp_path))
    sections = json.loads(text.replace("{bundle}", str(whole.done.bundle.path)))
    training = Trained(network)
    with pytest.raises(HilumError, match=says):
        run_all.run_all(elsewhere(whole.path, tmp_path / "run", **sections), training)
    assert training.times == 0
    assert not (tmp_path / "run").exists()


def test_a_card_for_which_nothing_can_be_compiled_is_refused_at_the_beginning(
    path: Path, network: DetectionModel, tmp_path: Path
) -> None:
    if "tensorrt_rtx" not in find_tensorrt_packages():
        skip_or_fail("tensorrt_rtx is not installed")
    training = Trained(network)
    config = elsewhere(path, tmp_path / "run", export={"capabilities": ["8.9", "1.2"]})
    with pytest.raises(EngineFailed, match=r"capability 1\.2; it does for 7\.5, .*12\.0"):
        run_all.run_all(config, training)
    assert training.times == 0


def test_pictures_that_are_not_there_are_missed_at_the_beginning(
    path: Path, network: DetectionModel, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    shutil.copytree(load_config(path).data.dataset, folder)
    *_, first, second = splits.load_split(folder).image_ids("test")
    for image in (first, second):
        (folder / "images" / f"{image}.png").unlink()
    training = Trained(network)
    config = elsewhere(path, tmp_path / "run", data={"dataset": str(folder)})
    with pytest.raises(TrainingError, match=rf"2 of 20 image files .* first is .*{first}\.png"):
        run_all.run_all(config, training)
    assert training.times == 0


def test_the_bundle_that_is_replaced_is_the_baseline(
    path: Path, whole: WholeRun, tmp_path: Path
) -> None:
    before = whole.done.bundle
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules: [{metric: difference/map50, at_least: 0.5}]", encoding="utf-8")
    config = elsewhere(
        path,
        tmp_path / "run",
        evaluate={"rules": str(rules), "resamples": 10},
        bundle={"replaces": str(before.path)},
    )
    config.out.mkdir()
    shutil.copy(load_config(path).out / "weights.pt", config.out)
    with pytest.raises(TrainingError, match="fails acceptance rules: difference/map50 at least 0"):
        stages.evaluate(config)
    written = (config.out / "evaluation" / "evaluation.json").read_bytes()
    found = Evaluation.model_validate_json(written)
    assert found.subject.compute_device == "cpu"
    assert found.baseline is not None
    assert found.baseline.subject.digest == before.digest
    settings = config.evaluate.model_copy(update={"baseline": Path("other.bundle")})
    other = config.model_copy(update={"evaluate": settings})
    assert stages.baseline_path(other) == Path("other.bundle")


def inputs_of(config: Config, name: str) -> dict[str, Any]:
    made = stages.Pipeline(config, lambda _: None, None, lambda _: None, lambda *_: None).stages()
    (step,) = (it for it in made if it.name == name)
    return step.inputs()


def test_a_baseline_counts_only_where_there_is_one(path: Path, whole: WholeRun) -> None:
    config = load_config(path)
    usual = inputs_of(config, "evaluate")
    assert set(usual) == {"data", "weights", "evaluate", "rules"}
    replaces = config.bundle.model_copy(update={"replaces": whole.done.bundle.path})
    other = inputs_of(config.model_copy(update={"bundle": replaces}), "evaluate")
    assert set(other) - set(usual) == {"baseline"}
    assert other | usual == other


def test_what_compiles_for_cards_counts_only_where_that_is_wanted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(path)
    wanted = config.model_copy(
        update={"export": config.export.model_copy(update={"capabilities": ("8.9",)})}
    )
    with_it: list[dict[str, Any]] = []
    for installed in ({}, {"tensorrt_rtx": "1.7.1"}, {"tensorrt_rtx": "1.8"}):
        monkeypatch.setattr(stages, "find_tensorrt_packages", lambda installed=installed: installed)
        assert set(inputs_of(config, "export")) == {"data", "weights", "export", "size"}
        with_it.append(inputs_of(wanted, "export"))
    assert [it.get("tensorrt_rtx") for it in with_it] == [None, "1.7.1", "1.8"]


def test_without_a_compiler_for_cards_it_is_said_that_there_are_no_engines(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graphs are those of the run, so that only the engines are missing."""
    monkeypatch.setattr(stages, "find_tensorrt_packages", dict)
    for module, function in (("export", "export_graphs"), ("quantization", "quantize_graphs")):
        monkeypatch.setattr(f"training.workflow.{module}.{function}", lambda *_: None)
    config = elsewhere(path, tmp_path / "run", export={"capabilities": ["8.9"]})
    shutil.copytree(load_config(path).out, config.out)
    messages: list[str] = []
    made = stages.Pipeline(config, lambda _: None, None, messages.append, lambda *_: None).stages()
    next(it for it in made if it.name == "export").act()
    assert messages == ["export: no TensorRT engines are compiled: tensorrt_rtx is missing"]
    assert (
        artifacts.load_artifacts(config.out / export.FOLDER).graphs.targets.get(TRT_FP16, ()) == ()
    )


def test_weights_are_measured_where_they_were_trained(path: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("a card is there: the weights would be measured on it")
    config = elsewhere(path, tmp_path / "run", train={"device": "cuda"})
    with pytest.raises(TrainingError, match="needs CUDA device 0"):
        stages.evaluate(config)


def test_the_example_that_newcomers_run_is_a_configuration() -> None:
    example = Path(__file__).parents[4] / "docs" / "examples" / "toy.yaml"
    assert load_config(example).bundle.name == "toy"


@pytest.fixture
def bundle(whole: WholeRun) -> Bundle:
    return whole.done.bundle


def changed(path: Path, section: str, **values: object) -> Config:
    """The same configuration, but for these values."""
    config = load_config(path)
    settings = getattr(config, section).model_copy(update=values)
    return config.model_copy(update={section: settings})


def test_the_same_run_gives_the_same_bytes(path: Path, bundle: Bundle) -> None:
    before = bundle.path.read_bytes()
    again = make_bundle.make_bundle(load_config(path), PICTURES)
    assert again.path.read_bytes() == before
    assert again.digest == bundle.digest


def test_it_says_what_changed_what_was_declared_and_what_came_of_it(
    path: Path, bundle: Bundle
) -> None:
    config, change = load_config(path), bundle.manifest.change_control
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


def test_card_and_list_of_parts_are_of_this_very_model(path: Path, bundle: Bundle) -> None:
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


def test_nothing_in_it_tells_where_it_was_made(path: Path, bundle: Bundle) -> None:
    with zipfile.ZipFile(bundle.path) as archive:
        for name in archive.namelist():
            assert str(path.parent).encode() not in archive.read(name), name


def test_settings_name_files_without_their_folders(path: Path) -> None:
    kept = changed(
        path, "evaluate", rules=Path("/home/me/rules.yaml"), baseline=Path("/home/me/a.bundle")
    )
    evaluate = json.loads(make_bundle._settings_json(kept))["evaluate"]
    assert (evaluate["rules"], evaluate["baseline"]) == ("rules.yaml", "a.bundle")
    assert "baseline" not in json.loads(make_bundle._settings_json(load_config(path)))["evaluate"]


def test_outside_the_declared_bounds_there_is_no_bundle(path: Path) -> None:
    config = load_config(path)
    proof = config.out / parity_check.PARITY
    before = proof.read_bytes()
    content = json.loads(before)
    content["variants"][0]["problems"] = ["openvino-int8: mAP@0.5 is 0.0500 down"]
    try:
        proof.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(TrainingError, match=r"mAP@0\.5 is 0\.0500 down"):
            make_bundle.make_bundle(changed(path, "bundle", version="2.0.0"))
    finally:
        proof.write_bytes(before)
    assert not (config.out / "toy-2.0.0.bundle").exists()


def test_bounds_cannot_be_moved_after_the_run_began(path: Path) -> None:
    config = load_config(path)
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
def test_what_is_missing_is_named(path: Path, file: str, says: str) -> None:
    config = load_config(path)
    present, aside = config.out / file, config.out / "aside"
    present.rename(aside)
    try:
        with pytest.raises(TrainingError, match=says):
            make_bundle.make_bundle(config)
    finally:
        aside.rename(present)


def test_a_variant_that_was_not_measured_is_not_shipped(path: Path) -> None:
    with pytest.raises(TrainingError, match="names tensorrt-int9, which was not measured"):
        make_bundle.make_bundle(changed(path, "bundle", variants=("tensorrt-int9",)))


def test_a_full_disk_leaves_the_bundle_that_was_there(path: Path, bundle: Bundle) -> None:
    before = bundle.path.read_bytes()
    listed = sorted(bundle.path.parent.iterdir())
    room = len(before) // 2
    with room_for(room), pytest.raises(TrainingError, match=r"cannot write .*toy-1\.2\.3\.bundle"):
        make_bundle.make_bundle(changed(path, "bundle", modifications="Another one."), PICTURES)
    assert bundle.path.read_bytes() == before
    assert sorted(bundle.path.parent.iterdir()) == listed
