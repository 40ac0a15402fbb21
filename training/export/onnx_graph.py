"""Where YOLO's head decodes: the nodes of an ONNX graph that stay float, by their exact names."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from training.errors import TrainingError


def drop_unused_constants(graph: onnx.GraphProto) -> None:
    """Take out what no node takes any more."""
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def head_nodes(model: onnx.ModelProto) -> frozenset[str]:
    """Names of all nodes after the detection head's last convolutions.

    Walks from the output to the convolutions that give box distributions and class scores. The
    DFL is a convolution too, with one output channel, and belongs to the decode.

    Raises:
        TrainingError: the walk met not one Sigmoid, one Softmax and one DFL, so it is not YOLO's
            head; or nodes have no names of their own.
    """
    graph = model.graph
    names = [node.name for node in graph.node]
    if "" in names or len(set(names)) != len(names):
        raise TrainingError("nodes of the ONNX graph share a name or have none")
    producers = {output: node for node in graph.node for output in node.output}
    channels = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    found: dict[str, onnx.NodeProto] = {}
    waiting = [producers[port.name] for port in graph.output if port.name in producers]
    while waiting:
        node = waiting.pop()
        is_dfl = node.op_type == "Conv" and channels.get(node.input[1]) == 1
        if node.name in found or (node.op_type == "Conv" and not is_dfl):
            continue
        found[node.name] = node
        waiting += [producers[name] for name in node.input if name in producers]
    kinds = [node.op_type for node in found.values()]
    if [kinds.count(kind) for kind in ("Sigmoid", "Softmax", "Conv")] != [1, 1, 1]:
        raise TrainingError(
            f"the ONNX graph's head is not YOLO's: it ends in {_list(sorted(set(kinds)))}"
        )
    return frozenset(found)


def convolutions(model: onnx.ModelProto, head: Iterable[str]) -> tuple[onnx.NodeProto, ...]:
    """All convolutions outside the head, in the graph's order."""
    inside = set(head)
    return tuple(
        node for node in model.graph.node if node.op_type == "Conv" and node.name not in inside
    )


def read_onnx(model: bytes) -> onnx.ModelProto:
    """The parsed model.

    Raises:
        TrainingError: these bytes are no ONNX model.
    """
    try:
        proto = onnx.load_from_string(model)
    except Exception as error:  # protobuf's own, which has no public name
        raise TrainingError(f"this is no ONNX model: {error}") from error
    if not proto.graph.node:
        raise TrainingError("this ONNX model has no node in it")
    return proto


def _list(kinds: list[str]) -> str:
    return ", ".join(kinds) or "nothing"
