"""The exported graph computes what the trained network does, and holds nothing else."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest
import torch
from google.protobuf.message import Message
from onnx import TensorProto, helper
from ultralytics.nn.tasks import DetectionModel

from edge_agent.engines.base import Pixels, RawOutputs
from tests.support.training.models import blobs, by_onnx_runtime, detector, random_detector
from training.errors import TrainingError
from training.export.onnx import export_float_ir, export_onnx, store_weights_as_float16
from training.models.grey import to_grey
from training.models.network import load_model

pytestmark = [pytest.mark.training, pytest.mark.slow]
PICTURE = blobs(3, 128, 128)[None, None]


def by_torch(model: DetectionModel, pixels: Pixels) -> RawOutputs:
    with torch.no_grad():
        outputs: RawOutputs = model(torch.from_numpy(pixels).float() / 255)[0].numpy()
    return outputs


def assert_alike(a: RawOutputs, b: RawOutputs, *, score: float, pixels: float) -> None:
    assert a.shape == b.shape
    np.testing.assert_allclose(a[:, 4:], b[:, 4:], atol=score)
    np.testing.assert_allclose(a[:, :4], b[:, :4], atol=pixels)


def test_one_grey_channel_gives_what_three_equal_ones_gave() -> None:
    colour = random_detector(channels=3)
    grey = to_grey(colour)
    assert colour.model[0].conv.in_channels == 3
    assert grey.model[0].conv.weight.shape[1] == 1
    three = np.repeat(PICTURE, 3, axis=1)
    assert_alike(by_torch(grey, PICTURE), by_torch(colour, three), score=1e-4, pixels=0.1)


def test_a_grey_network_is_left_alone(network: DetectionModel) -> None:
    assert torch.equal(to_grey(network).model[0].conv.weight, network.model[0].conv.weight)


def test_the_onnx_graph_takes_bytes_and_computes_the_same(
    network: DetectionModel, onnx_bytes: bytes
) -> None:
    wanted = by_torch(network, PICTURE)
    assert wanted[:, 4:].max() > 0.5
    assert_alike(by_onnx_runtime(onnx_bytes, PICTURE), wanted, score=1e-3, pixels=0.2)
    graph = onnx.load_from_string(onnx_bytes).graph
    assert [(i.name, i.type.tensor_type.elem_type) for i in graph.input] == [
        ("images", TensorProto.UINT8)
    ]
    assert "BatchNormalization" not in {node.op_type for node in graph.node}


def test_exporting_changes_nothing_in_the_network_and_gives_the_same_bytes_again(
    network: DetectionModel, onnx_bytes: bytes
) -> None:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert export_onnx(network, 128, 128) == onnx_bytes
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def strings_in(message: Message) -> Iterator[tuple[str, str]]:
    """Name and text of every string field, those of all messages inside included."""
    for field, value in message.ListFields():
        for item in value if field.is_repeated else [value]:
            if field.type == field.TYPE_MESSAGE:
                yield from strings_in(item)
            elif field.type == field.TYPE_STRING:
                yield field.name, item


def test_the_graphs_name_no_file_and_hold_no_stack_trace(onnx_bytes: bytes) -> None:
    """Weights are left out: their bytes differ by processor and may spell anything."""
    model = onnx.load_from_string(onnx_bytes)
    found = list(strings_in(model))
    assert len(found) > len(model.graph.node)
    assert not any(text for name, text in found if name == "doc_string")
    assert not model.metadata_props
    parts = (model.graph, *model.graph.node, *model.graph.input, *model.graph.initializer)
    assert not any(part.doc_string or part.metadata_props for part in parts)
    (xml, _) = export_float_ir(onnx_bytes)
    for text in (*(text for _, text in found), xml.decode()):
        for trace in ("site-packages", "/home", ".py", "Traceback", str(Path.cwd())):
            assert trace not in text
    origin = ET.fromstring(xml).find("rt_info/conversion_parameters")  # noqa: S314 - ours
    assert origin is not None
    assert {part.tag: part.get("value") for part in origin} == {
        "framework": "onnx",
        "is_python_object": "True",
    }


def test_half_the_bytes_for_the_same_answer(onnx_bytes: bytes) -> None:
    half = store_weights_as_float16(onnx_bytes)
    assert len(half) < 0.55 * len(onnx_bytes)
    assert store_weights_as_float16(onnx_bytes) == half
    # The graph computes in f32: only the weights are rounded.
    rounded = onnx.load_from_string(onnx_bytes)
    for tensor in rounded.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) >= 64:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    assert_alike(
        by_onnx_runtime(half, PICTURE),
        by_onnx_runtime(rounded.SerializeToString(), PICTURE),
        score=1e-5,
        pixels=1e-2,
    )


def test_weights_beyond_half_precision_are_an_error() -> None:
    weights = onnx.numpy_helper.from_array(np.full(100, 1e5, np.float32), "w")
    graph = helper.make_graph([], "g", [], [], [weights])
    with pytest.raises(TrainingError, match="w has weights that f16 cannot hold"):
        store_weights_as_float16(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize("channels", [1, 3])
def test_weights_come_back_from_their_file(tmp_path: Path, channels: int) -> None:
    model = detector(channels)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    loaded = load_model(tmp_path / "weights.pt")
    assert not loaded.training
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


class Surprise:
    """An object of a hostile checkpoint, which creates a file while it is loaded."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return Path.touch, (Path("surprise"),)  # type: ignore[return-value]


NO_WEIGHTS: dict[str, Callable[[Path], None]] = {
    "absent": lambda path: None,
    "not a file of torch": lambda path: path.write_bytes(b"weights"),
    "code": lambda path: torch.save({"model.0.conv.weight": Surprise()}, path),
    "a bare pickle of code": lambda path: path.write_bytes(pickle.dumps(Surprise())),
    "no state": lambda path: torch.save({"epoch": 3}, path),
    "another network": lambda path: torch.save(
        {k: v for k, v in detector().state_dict().items() if ".10." not in k}, path
    ),
}


@pytest.mark.parametrize("case", NO_WEIGHTS)
def test_what_is_no_state_of_tensors_is_refused(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    NO_WEIGHTS[case](tmp_path / "weights.pt")
    with pytest.raises(TrainingError, match="holds no weights of yolo11n"):
        load_model(tmp_path / "weights.pt")
    assert not (tmp_path / "surprise").exists()
