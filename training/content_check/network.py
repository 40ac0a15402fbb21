"""The content gate's network: what it learns from, what it is, how it is trained.

A frontal chest or not, which way up, bone bright or dark: three questions, one network of some
60,000 weights on 64 x 64 pixels. It standardises every picture itself, so that windows and flat
films matter little. Questions two and three are only asked of frontal chests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edge_agent.core.content_check import OUTPUTS, ContentProbabilities
from training.content_check.images import Content, LabelledPicture
from training.content_check.views import (
    Pixels,
    augment,
    crop_detail,
    invert,
    rotate,
    shuffle_tiles,
    to_input,
)
from training.errors import TrainingError

_NO_TURN: Final = -1


@dataclass(frozen=True, slots=True)
class ContentTrainingConfig:
    """Settings of one training."""

    seed: int = 5
    epochs: int = 10
    views: int = 20_000
    batch: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.03
    smoothing: float = 0.02
    threads: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class TrainingImages:
    """What there is to learn from, by where it comes from."""

    radiographs: tuple[LabelledPicture, ...]
    painted_chests: tuple[LabelledPicture, ...]
    laterals: tuple[LabelledPicture, ...]
    painted_others: tuple[LabelledPicture, ...]
    real_others: tuple[LabelledPicture, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One input u8 (64, 64) with its answers; `turn` is -1 where turn and `dark` are not asked."""

    pixels: Pixels
    content: Content
    turn: int
    dark: bool
    patient: str


@dataclass(frozen=True, slots=True, eq=False)
class SampleTensors:
    """Views as arrays: `pixels` u8 (N, 1, 64, 64), the others (N,); see `Sample`."""

    pixels: torch.Tensor
    content: torch.Tensor
    turn: torch.Tensor
    dark: torch.Tensor
    patients: tuple[str, ...]

    def without(self, patients: frozenset[str]) -> torch.Tensor:
        """Numbers of the views that show none of these patients, i64."""
        return torch.tensor([k for k, one in enumerate(self.patients) if one not in patients])


class ContentNetwork(nn.Module):
    """u8 (N, 1, 64, 64) to logits: content (N, 3), turn (N, 4), inverted (N,)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 16, 32, 48, 64)
        strides = (2, 2, 2, 1, 1)
        layers: list[nn.Module] = []
        for before, after, stride in zip(widths, widths[1:], strides, strict=False):
            layers += [
                nn.Conv2d(before, after, 3, stride, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
        self.features = nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(0.2))
        self.heads = nn.Linear(64 * 16, OUTPUTS)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Standardise, look, answer."""
        pixels = images.to(torch.float32) * (1 / 255)
        centred = pixels - pixels.mean(dim=(2, 3), keepdim=True)
        spread = (centred * centred).mean(dim=(2, 3), keepdim=True)
        answers = self.heads(self.features(centred / torch.sqrt(spread + 1e-4)))
        return answers[:, :3], answers[:, 3:7], answers[:, 7]


class ProbabilityHead(nn.Module):
    """The network as the clinic's box runs it: f32 (N, 8) probabilities."""

    def __init__(self, network: ContentNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits to probabilities."""
        content, turn, dark = self.network(images)
        return torch.cat([content.softmax(1), turn.softmax(1), torch.sigmoid(dark)[:, None]], dim=1)


def draw_sample(material: TrainingImages, rng: np.random.Generator) -> Sample:
    """One view of one picture, changed at random."""
    sources = (
        (0.36, material.radiographs),
        (0.16, material.painted_chests),
        (0.08, material.laterals),
        (0.30, material.painted_others),
        (0.10, material.real_others),
    )
    present = [(share, pictures) for share, pictures in sources if pictures]
    shares = np.array([share for share, _ in present])
    _, pictures = present[int(rng.choice(len(present), p=shares / shares.sum()))]
    picture = pictures[int(rng.integers(len(pictures)))]
    pixels, content = picture.pixels, picture.content
    if content is Content.FRONTAL and rng.random() < 0.12:
        broken = shuffle_tiles if rng.random() < 0.7 else crop_detail
        pixels, content = broken(pixels, rng), Content.OTHER
    turn = int(rng.integers(1, 4)) if rng.random() < 0.5 else 0
    dark, early = bool(rng.random() < 0.35), bool(rng.random() < 0.5)
    if dark and early:  # the borders and letters that come afterwards are not inverted
        pixels = invert(pixels)
    pixels = augment(pixels, rng)
    if dark and not early:
        pixels = invert(pixels)
    asked = content is Content.FRONTAL
    return Sample(
        to_input(rotate(pixels, turn)), content, turn if asked else _NO_TURN, dark, picture.patient
    )


def draw_pool(
    material: TrainingImages,
    config: ContentTrainingConfig,
    told: Callable[[int, int], None] = lambda *_: None,
) -> SampleTensors:
    """All views that the networks learn from, each a pure function of the seed and its number.

    Raises:
        TrainingError: there is no frontal chest or nothing else to tell it from.
    """
    if not (material.radiographs or material.painted_chests) or not material.painted_others:
        raise TrainingError("the gate needs frontal chests and something to tell them from")
    views = []
    for number in range(config.views):
        views.append(draw_sample(material, np.random.default_rng([config.seed, number])))
        told(number + 1, config.views)
    return SampleTensors(
        pixels=torch.from_numpy(np.stack([view.pixels for view in views])[:, None]),
        content=torch.tensor([int(view.content) for view in views]),
        turn=torch.tensor([view.turn for view in views]),
        dark=torch.tensor([float(view.dark) for view in views]),
        patients=tuple(view.patient for view in views),
    )


def train_network(
    pool: SampleTensors,
    config: ContentTrainingConfig,
    told: Callable[[int, int], None] = lambda *_: None,
    *,
    without: frozenset[str] = frozenset(),
) -> ContentNetwork:
    """Train one network on a pool without some patients.

    The same pool and settings give the same weights on the same machine.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    chosen = pool.without(without)
    network = ContentNetwork().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    steps = max(1, len(chosen) // config.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.epochs * steps, pct_start=0.15
    )
    for epoch in range(config.epochs):
        order = chosen[torch.randperm(len(chosen))]
        for step in range(steps):
            loss = _loss(network, pool, order[step * config.batch :][: config.batch], config)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        told(epoch + 1, config.epochs)
    return network.eval()


def _loss(
    network: ContentNetwork,
    pool: SampleTensors,
    numbers: torch.Tensor,
    config: ContentTrainingConfig,
) -> torch.Tensor:
    images = pool.pixels[numbers].to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # half the time; the loss stays f32
        content, turn, dark = (answer.float() for answer in network(images))
    turns, smooth = pool.turn[numbers], config.smoothing
    loss = functional.cross_entropy(content, pool.content[numbers], label_smoothing=smooth)
    asked = turns != _NO_TURN
    if bool(asked.any()):
        loss = loss + functional.cross_entropy(turn[asked], turns[asked], label_smoothing=smooth)
        soft = pool.dark[numbers][asked] * (1 - smooth) + smooth / 2
        loss = loss + functional.binary_cross_entropy_with_logits(dark[asked], soft)
    return loss


@torch.no_grad()
def predict(network: ContentNetwork, inputs: Sequence[Pixels]) -> list[ContentProbabilities]:
    """What a network says of inputs u8 (64, 64) each."""
    answers = []
    whole = ProbabilityHead(network).eval()
    for start in range(0, len(inputs), 256):
        batch = torch.from_numpy(np.stack(inputs[start : start + 256])[:, None])
        answers += [ContentProbabilities.from_outputs(row) for row in whole(batch).numpy()]
    return answers
