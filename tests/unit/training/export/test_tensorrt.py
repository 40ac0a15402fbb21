"""Engines from the graphs for GPUs, built by an in-memory compiler with configurable layers.

The real one is run where engines are built (`test_export_to_parity.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx
import pytest
from onnx import TensorProto, helper

from edge_agent.engines.runtimes.tensorrt_runtime import ExecutionContext, Layer, Plan
from edge_agent.errors import EngineFailed
from hilum.manifest import EngineTarget, HeadSpec, InputSpec
from training.bundle.layout import CARD_FP16, CARD_INT8
from training.bundle.variants import TRT_FP16, TRT_INT8, ModelFiles
from training.errors import TrainingError
from training.export.tensorrt import build_engines

pytestmark = [pytest.mark.training, pytest.mark.slow]

RTX = "tensorrt_rtx"


@dataclass
class Compiler:
    """Implements `engines.tensorrt_runtime.Runtime`; keeps no INT8 for the GPUs in `spoilt_by`."""

    spoilt_by: frozenset[str] = frozenset()
    spoils_together: bool = False
    unknown: frozenset[str] = frozenset()
    package: str = RTX
    version: str = "9.9"
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def check(self, capabilities: Sequence[str]) -> None:
        if unknown := self.unknown & set(capabilities):
            raise EngineFailed(f"does not compile for {unknown}")

    def build(self, onnx: bytes, capabilities: Sequence[str] = ()) -> Plan:
        self.asked.append(tuple(capabilities))
        spoilt = self.spoilt_by & set(capabilities) or (self.spoils_together and capabilities[1:])
        takes = "Half" if spoilt or b"DequantizeLinear" not in onnx else "Int8"
        layers = (Layer("a", "Convolution", takes), Layer("b", "shuffle", "Float"))
        return Plan(f"{takes} for {', '.join(capabilities)}".encode(), layers)

    def load(self, plan: bytes) -> ExecutionContext:
        raise NotImplementedError


def graph(*, quantized: bool) -> bytes:
    """Return a graph of one convolution, with dequantized or with f32 weights."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    weights = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 1, 1], [1.0])
    if quantized:
        nodes.insert(0, helper.make_node("DequantizeLinear", ["q", "scale"], ["w"]))
        weights = helper.make_tensor("q", TensorProto.INT8, [1, 1, 1, 1], [1])
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [1.0])
    made = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 4, 4])],
        [weights, scale],
    )
    model = helper.make_model(made)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def graphs(**targets: tuple[EngineTarget, ...]) -> ModelFiles:
    members = {CARD_INT8: graph(quantized=True), CARD_FP16: graph(quantized=False)}
    earlier = {name.replace("_", "-"): of for name, of in targets.items()}
    return ModelFiles(members, InputSpec(height=32, width=32), HeadSpec(), earlier)


def test_each_variant_is_one_file_for_all_gpus_and_each_gpu_is_inspected_alone() -> None:
    compiler = Compiler()
    steps: list[tuple[str, int, int]] = []
    built = build_engines(graphs(), ["8.6", "8.9"], compiler, lambda *step: steps.append(step))
    assert compiler.asked == [("8.6",), ("8.9",), ("8.6", "8.9")] * 2
    for name, path, takes in (
        (TRT_INT8, "tensorrt/int8-tensorrt_rtx.plan", "Int8"),
        (TRT_FP16, "tensorrt/fp16-tensorrt_rtx.plan", "Half"),
    ):
        assert built.graphs.targets[name] == (
            EngineTarget(package=RTX, version="9.9", capabilities=("8.6", "8.9"), model=path),
        )
        assert built.graphs.members[path] == f"{takes} for 8.6, 8.9".encode()
    assert [(it.variant, it.capability, it.convolutions) for it in built.inspections] == [
        (TRT_INT8, "8.6", {"Int8": 1}),
        (TRT_INT8, "8.9", {"Int8": 1}),
        (TRT_FP16, "8.6", {"Half": 1}),
        (TRT_FP16, "8.9", {"Half": 1}),
    ]
    assert {(it.layers, it.exclusion_reason) for it in built.inspections} == {(2, "")}
    assert [step[1:] for step in steps] == [(0, 6), (1, 6), (3, 6), (4, 6), (6, 6)]


def test_a_gpu_without_int8_is_excluded_from_that_variant_only() -> None:
    compiler = Compiler(spoilt_by=frozenset({"7.5"}))
    built = build_engines(graphs(), ["7.5", "8.9"], compiler)
    (int8,), (fp16,) = built.graphs.targets[TRT_INT8], built.graphs.targets[TRT_FP16]
    assert (int8.capabilities, fp16.capabilities) == (("8.9",), ("7.5", "8.9"))
    reasons = {
        it.capability: it.exclusion_reason for it in built.inspections if it.variant == TRT_INT8
    }
    assert reasons["8.9"] == ""
    assert reasons["7.5"] == (
        "for compute capability 7.5 only 0 of 1 quantized convolutions are INT8"
    )


def test_an_engine_that_is_not_int8_for_all_gpus_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"tensorrt-int8: for compute capability 8\.6, 8\.9"):
        build_engines(graphs(), ["8.6", "8.9"], Compiler(spoils_together=True))


def test_engines_of_the_same_package_are_replaced_and_others_stay() -> None:
    def earlier(package: str) -> EngineTarget:
        path = f"tensorrt/int8-{package}.plan"
        return EngineTarget(package=package, version="1", capabilities=("8.6",), model=path)

    other = earlier("tensorrt")
    given = graphs(tensorrt_int8=(earlier(RTX), other))
    built = build_engines(given, ["8.9"], Compiler())
    assert built.graphs.targets[TRT_INT8][0] == other
    assert [it.version for it in built.graphs.targets[TRT_INT8]] == ["1", "9.9"]
    assert given.targets[TRT_INT8] == (earlier(RTX), other)


def test_an_unknown_capability_is_refused_before_any_is_compiled() -> None:
    compiler = Compiler(unknown=frozenset({"9.0"}))
    with pytest.raises(EngineFailed, match=r"9\.0"):
        build_engines(graphs(), ["8.9", "9.0"], compiler)
    assert compiler.asked == []


def test_nothing_to_build_or_nothing_built_is_an_error() -> None:
    with pytest.raises(TrainingError, match=r"no compute capability .*export\.capabilities"):
        build_engines(graphs(), [], Compiler())
    none = ModelFiles({}, InputSpec(height=32, width=32), HeadSpec())
    with pytest.raises(TrainingError, match="run `hilum-train quantize` first"):
        build_engines(none, ["8.9"], Compiler())
    int8 = ModelFiles(
        {CARD_INT8: graph(quantized=True)}, InputSpec(height=32, width=32), HeadSpec()
    )
    with pytest.raises(TrainingError, match="no engine was built: for compute capability 7"):
        build_engines(int8, ["7.5"], Compiler(spoilt_by=frozenset({"7.5"})))
