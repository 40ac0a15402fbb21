"""From weights to proven graphs and a bundle with engines for cards, step by step, at toy size."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from edge_agent.engines.bundle import Bundle
from edge_agent.engines.runtimes.openvino import OpenVinoOptions
from edge_agent.engines.runtimes.tensorrt_runtime import find_tensorrt_packages, open_runtime
from tests.conftest import skip_or_fail
from tests.support.system.disks import room_for
from tests.support.training.exported_runs import SIZE, exportable, toy_parts
from training.bundle.layout import CARD_FP16, CARD_INT8
from training.bundle.measuring import measuring_engine
from training.bundle.variants import INT8, TRT_FP16, TRT_INT8, VARIANTS
from training.bundle.writer import draft_bundle, write_bundle
from training.cli.actions import export
from training.config import Config, load_config
from training.errors import TrainingError
from training.evaluation.detectors import detect_all, engine_detector, network_detector
from training.evaluation.metrics import mean_average_precision
from training.evaluation.parity import ParityResult
from training.export import artifacts
from training.models.network import load_model
from training.workflow import parity_check, quantization, run_inputs
from training.workflow.export import FOLDER, compile_engines, export_graphs
from training.workflow.parity_check import PARITY

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel

pytestmark = [pytest.mark.training, pytest.mark.slow]
RTX = "tensorrt_rtx"


@pytest.fixture(scope="module")
def run_config(tmp_path_factory: pytest.TempPathFactory, network: DetectionModel) -> Config:
    """A run whose graphs have been exported, quantized, compiled and proven, in wide bounds."""
    config = load_config(exportable(tmp_path_factory.mktemp("run"), network))
    export_graphs(config)
    quantization.quantize_graphs(config)
    if RTX in find_tensorrt_packages():
        compile_engines(config)
    parity_check.check_parity(config)
    return config


@pytest.fixture
def rtx() -> None:
    """What compiles for cards without one is there."""
    if RTX not in find_tensorrt_packages():
        skip_or_fail("tensorrt_rtx is not installed")


@pytest.fixture
def as_before(run_config: Config) -> Iterator[None]:
    """Graphs and proof are put back after a test that changes them."""
    graphs, proof = (
        artifacts.load_artifacts(run_config.out / FOLDER),
        (run_config.out / PARITY).read_bytes(),
    )
    yield
    artifacts.save_artifacts(run_config.out / FOLDER, graphs)
    (run_config.out / PARITY).write_bytes(proof)


@pytest.fixture
def fresh(run_config: Config, tmp_path: Path) -> Config:
    """A run with nothing but weights, configured by `c.yaml` beside it."""
    config = run_config.model_copy(update={"out": tmp_path / "run"})
    config.out.mkdir()
    shutil.copy(run_config.out / "weights.pt", config.out)
    (tmp_path / "c.yaml").write_text(config.model_dump_json(), encoding="utf-8")  # JSON is YAML.
    return config


def bounded(config: Config, map50: float, sensitivity: float) -> Config:
    bounds = config.parity.model_copy(update={"map50_drop": map50, "sensitivity_drop": sensitivity})
    return config.model_copy(update={"parity": bounds})


def with_export(config: Config, **changes: object) -> Config:
    return config.model_copy(update={"export": config.export.model_copy(update=changes)})


def test_each_variant_is_compared_and_the_float_ones_lose_nothing(run_config: Config) -> None:
    result = ParityResult.model_validate_json((run_config.out / PARITY).read_bytes())
    names = [it.name for it in result.variants]
    assert sorted([*names, *result.not_measured]) == sorted(VARIANTS)
    by_name = {it.name: it for it in result.variants}
    int8 = by_name["openvino-int8"]
    for name in ("openvino-fp32", "onnxruntime-fp32"):
        exact = by_name[name]
        assert exact.map50.reference > 0.8
        assert exact.map50.drop < int8.map50.drop
        assert exact.box_shift.median_px < 0.1 < int8.box_shift.median_px
    assert by_name[TRT_INT8].engine.startswith("ONNX Runtime in TensorRT's place")
    assert result.images == 8
    assert result.points_chosen == (
        "on valid, at most 0.05 false positives per class and image, each side separately"
    )


@pytest.mark.usefixtures("as_before")
def test_points_are_chosen_for_a_stated_sensitivity(run_config: Config) -> None:
    usual = ParityResult.model_validate_json((run_config.out / PARITY).read_bytes())
    aim = run_config.evaluate.model_validate({"resamples": 10, "floor": 0.1, "sensitivity": 0.5})
    result = parity_check.check_parity(run_config.model_copy(update={"evaluate": aim}))
    assert result.points_chosen.startswith("on valid, a sensitivity of 0.5 per class")
    assert result.reference_points != usual.reference_points
    assert set(result.reference_points) == set(usual.reference_points)
    for it in result.variants:
        assert set(it.points) == set(result.reference_points)


def test_proven_graphs_become_a_bundle_that_proves_itself(
    run_config: Config, tmp_path: Path
) -> None:
    made, result = parity_check.load_checked(run_config)
    bundle = write_bundle(tmp_path / "a.bundle", toy_parts(run_config, made, result))
    assert Bundle.open(bundle.path).manifest.input.height == SIZE
    if RTX not in find_tensorrt_packages():
        skip_or_fail("tensorrt_rtx is not installed")
    for name in (TRT_INT8, TRT_FP16):
        (target,) = bundle.variant(name).targets
        assert (target.package, target.capabilities) == (RTX, ("8.9",))
        assert target.version == open_runtime(RTX).version
        assert bundle.read(target.model)[:4] == b"vtrt"


@pytest.mark.usefixtures("rtx")
def test_what_was_compiled_is_int8_where_it_says_so(run_config: Config) -> None:
    seen = {
        it.variant: it
        for it in artifacts.load_artifacts(run_config.out / FOLDER).manifest.inspections
    }
    # The one that stays float is the DFL.
    assert seen[TRT_INT8].convolutions == {"Float": 1, "Int8": 87}
    assert seen[TRT_FP16].convolutions.get("Int8", 0) == 0
    assert seen[TRT_INT8].size_bytes > 1_000_000


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("path", [CARD_INT8, CARD_FP16])
def test_only_the_number_of_images_is_open_to_tensorrt(run_config: Config, path: str) -> None:
    trt = importlib.import_module(RTX)
    log = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(log).create_network(0)
    assert trt.OnnxParser(network, log).parse(
        artifacts.load_artifacts(run_config.out / FOLDER).members[path]
    )
    assert tuple(network.get_input(0).shape) == (-1, 1, SIZE, SIZE)
    images, rows, anchors = network.get_output(0).shape
    assert (images, rows) == (-1, 18)
    assert anchors > 0


@pytest.mark.usefixtures("rtx", "as_before")
def test_turing_gets_no_int8_and_the_record_says_why(run_config: Config) -> None:
    made = compile_engines(run_config, ["7.5"])
    assert made.manifest.targets[TRT_INT8] == ()
    assert made.manifest.targets[TRT_FP16][0].capabilities == ("7.5",)
    (int8,) = (it for it in made.manifest.inspections if it.variant == TRT_INT8)
    assert "only 0 of 87 quantized convolutions are INT8" in int8.exclusion_reason


@pytest.mark.slow
@pytest.mark.usefixtures("rtx", "as_before")
def test_one_engine_is_for_all_cards_that_were_asked_for(run_config: Config) -> None:
    made = compile_engines(run_config, ["8.6", "8.9"])
    for name in (TRT_INT8, TRT_FP16):
        (target,) = made.manifest.targets[name]
        assert target.capabilities == ("8.6", "8.9")
        alone = {it.capability: it for it in made.manifest.inspections if it.variant == name}
        assert set(alone) == {"8.6", "8.9"}
        # It holds what each of them takes, and says so itself.
        assert len(made.members[target.model]) >= max(it.size_bytes for it in alone.values())
        assert b"accelerators={sm86 sm89 }" in made.members[target.model]
        wanted = 87 if name == TRT_INT8 else 0
        assert {it.convolutions.get("Int8", 0) for it in alone.values()} == {wanted}
    assert artifacts.load_artifacts(run_config.out / FOLDER) == made


def test_torch_computes_where_the_run_was_trained(run_config: Config) -> None:
    if torch.cuda.is_available():
        pytest.skip("a card is there: the run would be compared on it")
    on_card = run_config.model_copy(
        update={"train": run_config.train.model_copy(update={"device": "cuda"})}
    )
    with pytest.raises(TrainingError, match="needs CUDA device 0"):
        parity_check.check_parity(on_card)


def test_a_full_disk_names_the_file_that_is_proven_from(run_config: Config) -> None:
    before = (run_config.out / PARITY).read_bytes()
    listed = sorted((run_config.out / FOLDER).rglob("*"))
    with room_for(100_000), pytest.raises(TrainingError, match=r"cannot write .*draft\.bundle: F"):
        parity_check.check_parity(run_config)
    assert (run_config.out / PARITY).read_bytes() == before
    assert sorted((run_config.out / FOLDER).rglob("*")) == listed


@pytest.mark.slow
def test_accuracy_control_measures_on_the_images_of_its_split(
    run_config: Config, fresh: Config
) -> None:
    shutil.copytree(run_config.out / FOLDER, fresh.out / FOLDER)
    with pytest.raises(TrainingError, match="there is no split 'exam'"):
        quantization.quantize_graphs(with_export(fresh, max_drop=0.9, control_on="exam"))
    made = quantization.quantize_graphs(with_export(fresh, max_drop=0.9))
    found = made.manifest.calibration
    assert found is not None
    assert (found.max_drop, found.kept_float, found.images) == (0.9, (), 4)
    valid, _ = run_inputs.read_split(fresh, "valid")
    spec, head = made.manifest.input, made.manifest.head
    draft = draft_bundle(fresh.out / "draft.bundle", made.graphs)
    exact = OpenVinoOptions(inference_precision="f32")
    engine = measuring_engine(draft, draft.variant(INT8), exact)
    before, after = (
        mean_average_precision(valid, detect_all(valid, detector), 0.5)
        for detector in (
            network_detector(load_model(fresh.out / "weights.pt"), spec, head),
            engine_detector(engine, spec, head),
        )
    )
    engine.close()
    assert found.drop == pytest.approx(before - after, abs=0.005)
    assert found.drop > 0.02


def test_a_bound_that_is_not_kept_names_itself_and_no_bundle_can_be_made(
    run_config: Config,
) -> None:
    path = run_config.out / PARITY
    kept = path.read_bytes()
    strict = bounded(run_config, 0.0, 0.0)
    with pytest.raises(TrainingError, match="run against other bounds than are configured"):
        parity_check.load_checked(strict)
    with pytest.raises(
        TrainingError, match=r"openvino-int8: .*the bound is 0 \(parity\."
    ) as caught:
        parity_check.check_parity(strict)
    assert "No bundle is made" in caught.value.hint
    assert ParityResult.model_validate_json(path.read_bytes()).problems
    with pytest.raises(TrainingError, match="is not the trained one"):
        parity_check.load_checked(strict)
    path.write_bytes(kept)


def test_files_that_changed_or_are_missing_are_noticed(run_config: Config) -> None:
    graph = run_config.out / FOLDER / "model.onnx"
    kept = graph.read_bytes()
    graph.write_bytes(kept[:-1])
    with pytest.raises(TrainingError, match=r"model\.onnx differs from its digest in export\.json"):
        parity_check.load_checked(run_config)
    graph.unlink()
    with pytest.raises(TrainingError, match=r"there is no .*model\.onnx"):
        parity_check.load_checked(run_config)
    graph.write_bytes(kept)
    weights = run_config.out / "weights.pt"
    trained = weights.read_bytes()
    weights.write_bytes(trained + b"\0")
    with pytest.raises(TrainingError, match="holds other weights than were exported"):
        quantization.quantize_graphs(run_config)
    weights.write_bytes(trained)
    parity_check.load_checked(run_config)


def test_steps_out_of_order_say_which_comes_first(fresh: Config) -> None:
    with pytest.raises(TrainingError, match=r"no .*export\.json") as caught:
        quantization.quantize_graphs(fresh)
    assert "hilum-train export" in caught.value.hint
    with pytest.raises(TrainingError, match=r"no .*export\.json"):
        parity_check.check_parity(fresh)
    (fresh.out / "weights.pt").unlink()
    with pytest.raises(TrainingError, match="there are no weights") as caught:
        export_graphs(fresh)
    assert "hilum-train run" in caught.value.hint


def test_without_calibration_images_the_message_names_the_setting(run_config: Config) -> None:
    before = (run_config.out / FOLDER / artifacts.FILE).read_bytes()
    with pytest.raises(TrainingError, match=r"export\.calibration_images is 0"):
        quantization.quantize_graphs(with_export(run_config, calibration_images=0))
    with pytest.raises(TrainingError, match="there is no split 'calibration'"):
        quantization.quantize_graphs(with_export(run_config, calibrate_on="calibration"))
    assert (run_config.out / FOLDER / artifacts.FILE).read_bytes() == before


def test_commands_end_with_a_status_and_a_sentence(
    fresh: Config, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yaml"
    assert export.quantize(config=path, accuracy_control="max_drop=much") == 1
    assert "--accuracy-control max_drop=0.01" in capfd.readouterr().err
    assert export.parity(config=path) == 1
    assert "Run `hilum-train export` first." in capfd.readouterr().err
    assert export.export(config=path) == 0
    assert "model.onnx" in capfd.readouterr().err
    record = json.loads((fresh.out / FOLDER / artifacts.FILE).read_text(encoding="utf-8"))
    assert record["calibration"] is None


def test_an_unfinished_write_leaves_what_was_there(
    run_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = artifacts.load_artifacts(run_config.out / FOLDER)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edge_agent.system.files.os.fsync", full)
    spoilt = replace(before, members={**before.members, "model.onnx": b"other"})
    with pytest.raises(TrainingError, match=r"cannot write .*: No space left"):
        artifacts.save_artifacts(run_config.out / FOLDER, spoilt)
    assert artifacts.load_artifacts(run_config.out / FOLDER) == before
    assert list((run_config.out / FOLDER).rglob("*.part")) == []
