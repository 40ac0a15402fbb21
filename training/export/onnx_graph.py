"""The structure of a detector's ONNX graph: its head, its convolutions, unused constants."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from training.errors import TrainingError


def drop_unused_constants(graph: onnx.GraphProto) -> None:
    """Remove initializers that no node uses."""
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def find_head_nodes(model: onnx.ModelProto) -> frozenset[str]:
    """Return the names of all nodes after the detection head's last convolutions.

    The walk goes from the output to the convolutions that give box distributions and class scores.
    The DFL is a convolution with one output channel, and is part of the decode.

    Raises:
        TrainingError: the walk did not find one Sigmoid, one Softmax and one DFL, so it is not
            YOLO's head; or nodes have no unique names.
    """
    graph = model.graph
    names = [node.name for node in graph.node]
    if "" in names or len(set(names)) != len(names):
        raise TrainingError("nodes of the ONNX graph share a name or have none")
    producers = {output: node for node in graph.node for output in node.output}
    channels = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    head: dict[str, onnx.NodeProto] = {}
    pending = [producers[port.name] for port in graph.output if port.name in producers]
    while pending:
        node = pending.pop()
        is_dfl = node.op_type == "Conv" and channels.get(node.input[1]) == 1
        if node.name in head or (node.op_type == "Conv" and not is_dfl):
            continue
        head[node.name] = node
        pending += [producers[name] for name in node.input if name in producers]
    kinds = [node.op_type for node in head.values()]
    if [kinds.count(kind) for kind in ("Sigmoid", "Softmax", "Conv")] != [1, 1, 1]:
        raise TrainingError(
            f"the ONNX graph's head is not YOLO's: it ends in {_format_kinds(sorted(set(kinds)))}"
        )
    return frozenset(head)


def find_convolutions(model: onnx.ModelProto, head: Iterable[str]) -> tuple[onnx.NodeProto, ...]:
    """Return all convolutions outside the head, in the graph's order."""
    inside = set(head)
    return tuple(
        node for node in model.graph.node if node.op_type == "Conv" and node.name not in inside
    )


def read_onnx(model: bytes) -> onnx.ModelProto:
    """Parse an ONNX model.

    Raises:
        TrainingError: the bytes are no ONNX model.
    """
    try:
        proto = onnx.load_from_string(model)
    except Exception as error:  # protobuf's error has no public name
        raise TrainingError(f"this is not an ONNX model: {error}") from error
    if not proto.graph.node:
        raise TrainingError("this ONNX model has no nodes")
    return proto


def _format_kinds(kinds: list[str]) -> str:
    return ", ".join(kinds) or "nothing"
