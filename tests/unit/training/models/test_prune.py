"""Pruning removes the channels that contribute least and leaves a working network."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

pytestmark = pytest.mark.training

torch = pytest.importorskip("torch")

from ultralytics.nn.tasks import DetectionModel  # noqa: E402  # torch may be absent

from tests.support.training.models import detector  # noqa: E402
from training.config import TrainConfig  # noqa: E402
from training.models.network import load_model, make_weights_content  # noqa: E402
from training.models.prune import STEP, find_channel_groups, prune  # noqa: E402
from training.train.checkpoints import write_tensors  # noqa: E402


def outputs(model: torch.nn.Module) -> torch.Tensor:
    pixels = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: torch.Tensor = model.eval()(pixels)[0]
    return found


def test_half_of_the_channels_go_and_the_widths_stay_even() -> None:
    model = detector()
    before = [group.width for group in find_channel_groups(model)]
    gone = prune(model, 0.5)
    after = [group.width for group in find_channel_groups(model)]
    assert gone == sum(before) - sum(after) > 0
    assert all(width % STEP == 0 for width in after)
    assert outputs(model).shape == outputs(detector()).shape


def test_channels_that_contribute_nothing_go_first_and_are_not_missed(
    network: DetectionModel,
) -> None:
    model = copy.deepcopy(network)
    dead = 0
    with torch.no_grad():
        for group in find_channel_groups(model):
            half = group.width // 2 // STEP * STEP
            group.producer.bn.weight[:half] = 0
            group.producer.bn.bias[:half] = 0
            for part in group.depthwise:  # The layers that pass them on must not add to them.
                part.bn.weight[:half] = 0
                part.bn.bias[:half] = 0
            dead += half
    whole = outputs(copy.deepcopy(model))
    assert dead >= prune(model, 0.5) > 0
    assert torch.allclose(outputs(model), whole, atol=1e-4)


def test_nothing_asked_for_is_nothing_changed() -> None:
    model = detector()
    assert prune(model, 0.0) == 0


def test_a_pruned_network_is_read_back_with_its_widths(
    network: DetectionModel, tmp_path: Path
) -> None:
    model = copy.deepcopy(network)
    prune(model, 0.5)
    write_tensors(make_weights_content(model.state_dict(), TrainConfig()), tmp_path / "weights.pt")
    loaded = load_model(tmp_path / "weights.pt")
    assert torch.equal(outputs(loaded), outputs(model))
