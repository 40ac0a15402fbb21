"""TensorRT engines compiled ahead of time, without a GPU here or a compiler on the device.

`tensorrt_rtx` compiles on a CPU for given compute capabilities. The layers that it made are read
from its log, because on Turing (7.5) it turns INT8 convolutions into f16 without a message. INT8
convolutions are counted, and a capability without them is excluded. In one file with others it
would remove INT8 from them too, because such a file is compiled for the oldest of its GPUs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from edge_agent.engines.runtimes.tensorrt_runtime import Plan, Runtime
from hilum.manifest import EngineTarget
from training.bundle.layout import CARD_FP16, CARD_INT8
from training.bundle.variants import TRT_FP16, TRT_INT8, ModelFiles
from training.errors import TrainingError
from training.export.artifacts import PlanInspection
from training.export.onnx_graph import read_onnx

_GRAPHS: Final = {TRT_INT8: CARD_INT8, TRT_FP16: CARD_FP16}
_MIN_INT8_SHARE: Final = 0.9
"""Share of the quantized convolutions that must be INT8 in the engine."""

Step = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class BuiltEngines:
    """The graphs with their engines, and the inspection of each engine."""

    graphs: ModelFiles
    inspections: tuple[PlanInspection, ...]


def build_engines(
    graphs: ModelFiles,
    capabilities: Sequence[str],
    runtime: Runtime,
    on_step: Step = lambda *_: None,
) -> BuiltEngines:
    """Compile the graphs for GPUs, one file per variant for all its capabilities.

    Every capability is also compiled alone, to inspect its layers.

    Args:
        graphs: with `tensorrt/int8.onnx`, `tensorrt/fp16.onnx` or both; earlier engines of the same
            package and version are replaced.
        capabilities: such as `8.9`.
        runtime: `edge_agent.engines.runtimes.tensorrt_runtime.open_runtime("tensorrt_rtx")`.
        on_step: called with the progress.

    Raises:
        TrainingError: no capability, no graph for GPUs, every capability was excluded, or the
            engine for all capabilities is not INT8.
        EngineFailed: the package does not know a capability, or cannot compile the graph.
    """
    if not capabilities:
        raise TrainingError("no compute capability to compile for (export.capabilities)")
    runtime.check(capabilities)
    variants = [name for name, path in _GRAPHS.items() if path in graphs.members]
    if not variants:
        raise TrainingError("there is no graph for GPUs yet: run `hilum-train quantize` first")
    members, targets = dict(graphs.members), dict(graphs.targets)
    inspections: list[PlanInspection] = []
    total = len(variants) * (len(capabilities) + 1)
    for number, variant in enumerate(variants):
        onnx = graphs.members[_GRAPHS[variant]]
        expected = _quantized_convolutions(onnx)
        alone = []
        for k, capability in enumerate(capabilities):
            on_step("compile for GPUs", number * (len(capabilities) + 1) + k, total)
            plan = runtime.build(onnx, (capability,))
            alone.append(_inspect(variant, capability, plan, expected))
        inspections += alone
        usable = tuple(it.capability for it in alone if not it.exclusion_reason)
        targets[variant] = tuple(
            it for it in targets.get(variant, ()) if it.package != runtime.package
        )
        if not usable:
            continue
        path = f"tensorrt/{variant.removeprefix('tensorrt-')}-{runtime.package}.plan"
        together = runtime.build(onnx, usable)
        if problem := _inspect(variant, ", ".join(usable), together, expected).exclusion_reason:
            raise TrainingError(f"{variant}: {problem}")
        members[path] = together.content
        made = EngineTarget(
            package=runtime.package,
            version=runtime.version,
            capabilities=usable,
            model=path,
        )
        targets[variant] = (*targets[variant], made)
    on_step("compile for GPUs", total, total)
    if not any(targets.values()):
        raise TrainingError(f"no engine was built: {inspections[0].exclusion_reason}")
    return BuiltEngines(replace(graphs, members=members, targets=targets), tuple(inspections))


def _inspect(variant: str, capability: str, plan: Plan, expected: int) -> PlanInspection:
    kinds = Counter(layer.input_type for layer in plan.layers if layer.is_convolution)
    exclusion_reason = ""
    if kinds["Int8"] < _MIN_INT8_SHARE * expected:
        exclusion_reason = (
            f"for compute capability {capability} only {kinds['Int8']} of {expected} quantized "
            "convolutions are INT8"
        )
    return PlanInspection(
        variant=variant,
        capability=capability,
        layers=len(plan.layers),
        convolutions=dict(sorted(kinds.items())),
        size_bytes=len(plan.content),
        exclusion_reason=exclusion_reason,
    )


def _quantized_convolutions(onnx: bytes) -> int:
    graph = read_onnx(onnx).graph
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return sum(node.op_type == "Conv" and node.input[1] in dequantized for node in graph.node)
