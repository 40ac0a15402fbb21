"""Engines for cards, compiled ahead of time: no card is needed here, nor a compiler on the box.

`tensorrt_rtx` compiles for stated compute capabilities on a processor. What it made of each graph
is read from its own log: on Turing (7.5) it turns INT8 convolutions into f16 without a word, so
what is called INT8 is counted, and a capability that has none is left out. In one file with others
it would take INT8 from them too: such a file is compiled as for the oldest of its cards.
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
_INT8_FROM: Final = 0.9
"""Share of the quantised convolutions that must have become INT8."""

Step = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class BuiltEngines:
    """The graphs with engines beside them, and what was seen of each."""

    graphs: ModelFiles
    inspected: tuple[PlanInspection, ...]


def build_engines(
    graphs: ModelFiles,
    capabilities: Sequence[str],
    runtime: Runtime,
    on_step: Step = lambda *_: None,
) -> BuiltEngines:
    """Compile the graphs for cards, one file for each variant, for all capabilities in it.

    Every capability is also compiled alone, which is how it can be seen what becomes of it.

    Args:
        graphs: with `tensorrt/int8.onnx`, `tensorrt/fp16.onnx` or both; earlier engines of the same
            package and version are replaced.
        capabilities: such as `8.9`.
        runtime: `edge_agent.engines.runtimes.tensorrt_runtime.open_runtime("tensorrt_rtx")`.
        on_step: told how far it is.

    Raises:
        TrainingError: no capability, no graph for cards, not one engine came out, or the one for
            all capabilities is not INT8.
        EngineFailed: the package does not know a capability, or cannot compile the graph.
    """
    if not capabilities:
        raise TrainingError("no compute capability to compile for (export.capabilities)")
    runtime.check(capabilities)
    variants = [name for name, path in _GRAPHS.items() if path in graphs.members]
    if not variants:
        raise TrainingError("there is no graph for cards yet: run `hilum-train quantize` first")
    members, targets = dict(graphs.members), dict(graphs.targets)
    inspected: list[PlanInspection] = []
    total = len(variants) * (len(capabilities) + 1)
    for number, variant in enumerate(variants):
        onnx = graphs.members[_GRAPHS[variant]]
        wanted = _quantised_convolutions(onnx)
        seen = []
        for k, capability in enumerate(capabilities):
            on_step("compile for cards", number * (len(capabilities) + 1) + k, total)
            plan = runtime.build(onnx, (capability,))
            seen.append(_inspect(variant, capability, plan, wanted))
        inspected += seen
        fit = tuple(it.capability for it in seen if not it.left_out)
        targets[variant] = tuple(
            it for it in targets.get(variant, ()) if it.package != runtime.package
        )
        if not fit:
            continue
        path = f"tensorrt/{variant.removeprefix('tensorrt-')}-{runtime.package}.plan"
        together = runtime.build(onnx, fit)
        if problem := _inspect(variant, ", ".join(fit), together, wanted).left_out:
            raise TrainingError(f"{variant}: {problem}")
        members[path] = together.content
        made = EngineTarget(
            package=runtime.package,
            version=runtime.version,
            capabilities=fit,
            model=path,
        )
        targets[variant] = (*targets[variant], made)
    on_step("compile for cards", total, total)
    if not any(targets.values()):
        raise TrainingError(f"no engine came out: {inspected[0].left_out}")
    return BuiltEngines(replace(graphs, members=members, targets=targets), tuple(inspected))


def _inspect(variant: str, capability: str, plan: Plan, wanted: int) -> PlanInspection:
    kinds = Counter(layer.takes for layer in plan.layers if layer.is_convolution)
    left_out = ""
    if kinds["Int8"] < _INT8_FROM * wanted:
        left_out = (
            f"for compute capability {capability} only {kinds['Int8']} of {wanted} quantised "
            "convolutions became INT8"
        )
    return PlanInspection(
        variant=variant,
        capability=capability,
        layers=len(plan.layers),
        convolutions=dict(sorted(kinds.items())),
        size_bytes=len(plan.content),
        left_out=left_out,
    )


def _quantised_convolutions(onnx: bytes) -> int:
    graph = read_onnx(onnx).graph
    dequantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return sum(node.op_type == "Conv" and node.input[1] in dequantised for node in graph.node)
