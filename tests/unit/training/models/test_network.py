"""Networks, and what is let in as weights: by digest only, and nothing that could run code."""

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
    described,
    load_initial,
    load_model,
    new_network,
)
from training.train.checkpoints import write  # noqa: E402


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Malice:
    """What a pickle can do: create a file while it is loaded."""

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
    model = new_network("yolo11n", activation)
    found = [type(module) for module in model.modules() if isinstance(module, acts)]
    assert set(found) == {kind}
    # The library's default is the process's; it must be left as it was.
    assert any(isinstance(module, nn.SiLU) for module in new_network("yolo11n").modules())


def test_a_weights_file_says_what_it_is_for(tmp_path: Path) -> None:
    config = TrainConfig(activation="relu", architecture="yolo11n")
    model = build_model(config)
    write(described(model.state_dict(), config), tmp_path / "weights.pt")
    loaded = load_model(tmp_path / "weights.pt", "yolo11m")  # the file knows better
    assert not any(isinstance(module, nn.SiLU) for module in loaded.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key])


def test_initial_weights_need_their_digest(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    write({"state": detector().state_dict()}, path)
    model = detector()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(TrainingError, match="digest"):
        load_initial(model, path, "0" * 64)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert load_initial(model, path, digest(path)) == 1.0
    with pytest.raises(TrainingError, match=r"absent\.pt"):
        load_initial(model, tmp_path / "absent.pt", "0" * 64)


def test_a_pickle_that_could_run_code_is_refused_though_its_digest_is_stated(
    tmp_path: Path,
) -> None:
    path, touched = tmp_path / "evil.pt", tmp_path / "touched"
    torch.save({"model": Malice(touched)}, path)
    with pytest.raises(TrainingError, match="could run any code"):
        load_initial(detector(), path, digest(path))
    assert not touched.exists()


def test_a_checkpoint_of_ultralytics_is_read_by_its_restricted_reader(tmp_path: Path) -> None:
    """Three colours and other classes, as its published weights have: the rest is taken over."""
    from ultralytics.nn.tasks import DetectionModel

    theirs = DetectionModel("yolo11n.yaml", ch=3, nc=80, verbose=False)
    path = tmp_path / "yolo11n.pt"
    torch.save({"model": theirs.half(), "epoch": -1}, path)
    model = detector()
    assert load_initial(model, path, digest(path)) > 0.85
    grey = model.model[0].conv.weight
    colour = theirs.model[0].conv.weight.float().sum(dim=1, keepdim=True)
    assert torch.equal(grey, colour)


@pytest.mark.parametrize("content", [{"state": {}}, {"a": torch.zeros(2)}, [1, 2]])
def test_what_is_no_network_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(TrainingError, match=r"other\.pt"):
        load_initial(detector(), path, digest(path))


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.pt"
    write({"state": new_network("yolo11s").state_dict()}, path)
    with pytest.raises(TrainingError, match="another architecture"):
        load_initial(detector(), path, digest(path))
