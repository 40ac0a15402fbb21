"""Networks and their weights: loaded by digest only, and never by running code."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.training

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402  # torch may be absent

from tests.support.training.models import detector  # noqa: E402
from training.config import TrainConfig  # noqa: E402
from training.errors import TrainingError  # noqa: E402
from training.models.network import (  # noqa: E402
    build_model,
    create_network,
    describe_weights,
    load_initial_weights,
    load_model,
    make_weights_content,
)
from training.train.checkpoints import write_tensors  # noqa: E402


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Malice:
    """A pickle that creates a file while it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize(
    ("activation", "kind"),
    [("silu", nn.SiLU), ("hardswish", nn.Hardswish), ("relu", nn.ReLU)],
)
def test_the_activation_is_throughout(activation: str, kind: type[nn.Module]) -> None:
    acts = (nn.SiLU, nn.Hardswish, nn.ReLU)
    model = create_network("yolo11n", activation)
    found = [type(module) for module in model.modules() if isinstance(module, acts)]
    assert set(found) == {kind}
    # The library's default is the process's; it must be left as it was.
    assert any(isinstance(module, nn.SiLU) for module in create_network("yolo11n").modules())


def test_a_weights_file_names_its_architecture_and_activation(tmp_path: Path) -> None:
    config = TrainConfig(activation="relu", architecture="yolo11n")
    model = build_model(config)
    write_tensors(make_weights_content(model.state_dict(), config), tmp_path / "weights.pt")
    loaded = load_model(tmp_path / "weights.pt", "yolo11m")  # the file knows better
    assert not any(isinstance(module, nn.SiLU) for module in loaded.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key])
    described = describe_weights(tmp_path / "weights.pt")
    assert described == {"activation": "relu", "weights_sha256": digest(tmp_path / "weights.pt")}


def test_initial_weights_need_their_digest(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    write_tensors({"state": detector().state_dict()}, path)
    model = detector()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(TrainingError, match="digest"):
        load_initial_weights(model, path, "0" * 64)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert load_initial_weights(model, path, digest(path)) == 1.0
    with pytest.raises(TrainingError, match=r"absent\.pt"):
        load_initial_weights(model, tmp_path / "absent.pt", "0" * 64)


def test_a_pickle_that_could_run_code_is_refused_though_its_digest_is_stated(
    tmp_path: Path,
) -> None:
    path, touched = tmp_path / "evil.pt", tmp_path / "touched"
    torch.save({"model": Malice(touched)}, path)
    with pytest.raises(TrainingError, match="could run any code"):
        load_initial_weights(detector(), path, digest(path))
    assert not touched.exists()


def test_a_checkpoint_of_ultralytics_is_read_by_its_restricted_reader(tmp_path: Path) -> None:
    """Three colours and other classes, as its published weights have: the rest is taken over."""
    from ultralytics.nn.tasks import DetectionModel

    theirs = DetectionModel("yolo11n.yaml", ch=3, nc=80, verbose=False)
    path = tmp_path / "yolo11n.pt"
    torch.save({"model": theirs.half(), "epoch": -1}, path)
    model = detector()
    assert load_initial_weights(model, path, digest(path)) > 0.85
    grey = model.model[0].conv.weight
    colour = theirs.model[0].conv.weight.float().sum(dim=1, keepdim=True)
    assert torch.equal(grey, colour)


@pytest.mark.parametrize("content", [{"state": {}}, {"a": torch.zeros(2)}, [1, 2]])
def test_what_is_no_network_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(TrainingError, match=r"other\.pt"):
        load_initial_weights(detector(), path, digest(path))


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.pt"
    write_tensors({"state": create_network("yolo11s").state_dict()}, path)
    with pytest.raises(TrainingError, match="another architecture"):
        load_initial_weights(detector(), path, digest(path))


def test_a_file_that_holds_no_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "torn.pt").write_bytes(b"torn")
    for name in ("torn.pt", "absent.pt"):
        with pytest.raises(TrainingError, match=f"{name} is no weights file"):
            describe_weights(tmp_path / name)
