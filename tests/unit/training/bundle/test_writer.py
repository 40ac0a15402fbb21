"""A bundle is written the same each time, proves itself, or is not written at all."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_agent.engines.base import Engine, Pixels, RawOutputs
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.golden import run_golden
from edge_agent.engines.runtimes.openvino import OpenVinoOptions
from edge_agent.errors import BundleInvalid
from hilum.catalog import CATALOG
from hilum.manifest import MANIFEST_NAME, HeadSpec, InputSpec, Provenance
from tests.support.engines.bundles import ANCHORS, MASS, ROWS, SIZE, picture, transparent_ir
from training.bundle import golden_recording
from training.bundle.archive import BundleContents
from training.bundle.layout import FLOAT_BIN, FLOAT_XML, INT8_BIN, INT8_XML, ONNX
from training.bundle.measuring import measuring_engine
from training.bundle.variants import BF16, FP32, INT8, ORT_FP32, ModelFiles
from training.bundle.writer import draft_bundle, write_bundle
from training.errors import TrainingError

OPTIONS = OpenVinoOptions(threads=1)


def transparent_onnx(gain: float = 1.0) -> bytes:
    """The transparent model of `support.engines.bundles` as ONNX; `gain` multiplies its scores."""
    scale = np.ones((1, ROWS, 1), np.float32)
    scale[:, 4:] *= gain / 255
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["grey"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["grey", "shape"], ["matrix"]),
            helper.make_node("Mul", ["matrix", "scale"], ["outputs"]),
        ],
        "transparent",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, [1, ROWS, ANCHORS])],
        [
            numpy_helper.from_array(np.array([1, ROWS, ANCHORS]), "shape"),
            numpy_helper.from_array(scale, "scale"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(onnx.shape_inference.infer_shapes(model).SerializeToString())


def graphs(gain: float = 1.0) -> ModelFiles:
    xml, weights = transparent_ir()
    members = {
        INT8_XML: xml,
        INT8_BIN: weights,
        FLOAT_XML: xml,
        FLOAT_BIN: weights,
        ONNX: transparent_onnx(gain),
    }
    return ModelFiles(members, InputSpec(height=SIZE, width=SIZE), HeadSpec())


PARTS = BundleContents(
    name="transparent",
    version="1.2.3",
    intended_use="Tests.",
    graphs=graphs(),
    operating_points={
        INT8: {finding.slug: 0.5 for finding in CATALOG},
        FP32: {finding.slug: 0.4 for finding in CATALOG},
        ORT_FP32: {finding.slug: 0.4 for finding in CATALOG},
    },
    pictures={"mass": MASS, "clear": picture()},
    model_card="# Transparent\n",
    provenance=Provenance(trained_on="nothing", command="none", seed=0, base_weights="none"),
)


def test_it_holds_what_went_in_and_proves_itself(tmp_path: Path) -> None:
    made = write_bundle(tmp_path / "a.bundle", PARTS, OPTIONS)
    assert made == Bundle.open(tmp_path / "a.bundle")
    assert [engine.name for engine in made.manifest.engines] == [INT8, FP32, ORT_FP32]
    assert made.variant(FP32).operating_points["ild"] == 0.4
    assert made.read("model-card.md") == b"# Transparent\n"
    assert [case.name for case in made.golden.cases] == ["clear", "mass"]
    (mass,) = made.golden.cases[1].expected[INT8]
    assert (mass.finding, mass.score, mass.box) == ("nodule_mass", 0.8, (30, 33, 50, 63))
    for variant in made.manifest.engines:
        engine = measuring_engine(made, variant, OPTIONS)
        assert all(verdict.passed for verdict in run_golden(made, engine))


class TwoAtOnce:
    """An engine that sees nothing in one picture as soon as it runs together with another."""

    max_batch = 2

    def __init__(self, engine: Engine, lost: Pixels) -> None:
        self.name = engine.name
        self.close = engine.close
        self._engine = engine
        self._lost = lost

    def infer(self, batch: Pixels) -> RawOutputs:
        outputs = np.concatenate([self._engine.infer(image[None]) for image in batch])
        if len(batch) > 1:
            outputs[[np.array_equal(image[0], self._lost) for image in batch]] = 0
        return outputs


def test_what_is_answered_otherwise_together_is_no_golden_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = picture((2, 200, (10, 10, 40, 40)))
    engine_for = golden_recording.measuring_engine
    monkeypatch.setattr(
        golden_recording, "measuring_engine", lambda *known: TwoAtOnce(engine_for(*known), lost)
    )
    parts = replace(PARTS, pictures={**PARTS.pictures, "lost": lost})
    made = write_bundle(tmp_path / "a.bundle", parts, OPTIONS)
    assert [case.name for case in made.golden.cases] == ["clear", "mass"]


def test_the_same_parts_are_the_same_bytes(tmp_path: Path) -> None:
    one = write_bundle(tmp_path / "a.bundle", PARTS, OPTIONS)
    turned = replace(PARTS, pictures=dict(reversed(PARTS.pictures.items())))
    other = write_bundle(tmp_path / "b.bundle", turned, OPTIONS)
    assert one.digest == other.digest
    assert one.path.read_bytes() == other.path.read_bytes()
    with zipfile.ZipFile(one.path) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist() == sorted(archive.namelist())
        assert MANIFEST_NAME in archive.namelist()


def test_other_parts_are_another_digest(tmp_path: Path) -> None:
    one = write_bundle(tmp_path / "a.bundle", PARTS, OPTIONS)
    points = {**PARTS.operating_points, FP32: PARTS.operating_points[INT8]}
    other = write_bundle(tmp_path / "b.bundle", replace(PARTS, operating_points=points), OPTIONS)
    assert one.digest != other.digest


def test_a_draft_can_be_measured_with_but_not_run_by_an_agent(tmp_path: Path) -> None:
    draft = draft_bundle(tmp_path / "draft.bundle", PARTS.graphs)
    assert [variant.name for variant in draft.manifest.engines] == [INT8, BF16, FP32, ORT_FP32]
    engine = measuring_engine(draft, draft.variant(INT8), OPTIONS)
    assert engine.infer(MASS[None, None]).shape == (1, ROWS, ANCHORS)
    assert set(draft.variant(INT8).operating_points.values()) == {HeadSpec().score_floor}
    with pytest.raises(BundleInvalid, match=r"golden/cases\.json"):
        Bundle.open(draft.path)


REFUSED: dict[str, tuple[BundleContents, str]] = {
    "points for no variant": (replace(PARTS, operating_points={}), r"points for \[\]"),
    "points for an unknown one": (
        replace(PARTS, operating_points={"tpu": PARTS.operating_points[INT8]}),
        r"points for \['tpu'\]",
    ),
    "no picture": (
        replace(PARTS, pictures={}),
        "a finding that openvino-int8 reproduces",
    ),
    "nothing to see": (
        replace(PARTS, pictures={"clear": picture()}),
        "a finding that openvino-int8 reproduces",
    ),
    "a variant that is blind": (
        replace(PARTS, graphs=graphs(gain=0.1)),
        "a finding that onnxruntime-fp32 reproduces",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_proves_nothing_is_not_written(case: str, tmp_path: Path) -> None:
    parts, message = REFUSED[case]
    before = write_bundle(tmp_path / "a.bundle", PARTS, OPTIONS).path.read_bytes()
    with pytest.raises(TrainingError, match=message):
        write_bundle(tmp_path / "a.bundle", parts, OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.bundle"]
    assert (tmp_path / "a.bundle").read_bytes() == before
