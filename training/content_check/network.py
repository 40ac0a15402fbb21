"""The content check's network, its samples and its training.

One network of some 60,000 weights on 64 x 64 pixels has three outputs: the content (frontal chest,
lateral chest, other), the rotation, and the polarity (bone bright or dark). It standardises every
image, so that window and contrast matter little. Rotation and polarity are trained on frontal
chests only.
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
from training.content_check.image_sources import Content, ContentImage
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
    """Settings of one training; `samples` is the number of samples in the pool."""

    seed: int = 5
    epochs: int = 10
    samples: int = 20_000
    batch: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.03
    smoothing: float = 0.02
    threads: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class TrainingImages:
    """The images to train on, by origin."""

    radiographs: tuple[ContentImage, ...]
    painted_chests: tuple[ContentImage, ...]
    laterals: tuple[ContentImage, ...]
    painted_others: tuple[ContentImage, ...]
    real_others: tuple[ContentImage, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One input, u8 (64, 64), with its targets.

    `turn` is the rotation in quarters, -1 if neither rotation nor `inverted` is trained.
    """

    pixels: Pixels
    content: Content
    turn: int
    inverted: bool
    patient: str


@dataclass(frozen=True, slots=True, eq=False)
class SampleTensors:
    """Samples as tensors: `pixels` u8 (N, 1, 64, 64), the others (N,); see `Sample`."""

    pixels: torch.Tensor
    content: torch.Tensor
    turn: torch.Tensor
    inverted: torch.Tensor
    patients: tuple[str, ...]

    def without(self, patients: frozenset[str]) -> torch.Tensor:
        """Return the numbers of the samples that show none of these patients, i64."""
        return torch.tensor([k for k, one in enumerate(self.patients) if one not in patients])


class ContentNetwork(nn.Module):
    """The network: u8 (N, 1, 64, 64) to logits of content (N, 3), turn (N, 4), inverted (N,)."""

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
        """Standardise the images and compute the logits."""
        pixels = images.to(torch.float32) * (1 / 255)
        centred = pixels - pixels.mean(dim=(2, 3), keepdim=True)
        spread = (centred * centred).mean(dim=(2, 3), keepdim=True)
        answers = self.heads(self.features(centred / torch.sqrt(spread + 1e-4)))
        return answers[:, :3], answers[:, 3:7], answers[:, 7]


class ProbabilityHead(nn.Module):
    """The network as an edge agent runs it: f32 (N, 8) probabilities."""

    def __init__(self, network: ContentNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the probabilities."""
        content, turn, inverted = self.network(images)
        return torch.cat(
            [content.softmax(1), turn.softmax(1), torch.sigmoid(inverted)[:, None]], dim=1
        )


def draw_sample(material: TrainingImages, rng: np.random.Generator) -> Sample:
    """Draw an image and change it at random."""
    sources = (
        (0.36, material.radiographs),
        (0.16, material.painted_chests),
        (0.08, material.laterals),
        (0.30, material.painted_others),
        (0.10, material.real_others),
    )
    present = [(share, images) for share, images in sources if images]
    shares = np.array([share for share, _ in present])
    _, images = present[int(rng.choice(len(present), p=shares / shares.sum()))]
    image = images[int(rng.integers(len(images)))]
    pixels, content = image.pixels, image.content
    if content is Content.FRONTAL and rng.random() < 0.12:
        broken = shuffle_tiles if rng.random() < 0.7 else crop_detail
        pixels, content = broken(pixels, rng), Content.OTHER
    turn = int(rng.integers(1, 4)) if rng.random() < 0.5 else 0
    inverted, early = bool(rng.random() < 0.35), bool(rng.random() < 0.5)
    # An early inversion leaves the borders and letters of the augmentation as they are.
    if inverted and early:
        pixels = invert(pixels)
    pixels = augment(pixels, rng)
    if inverted and not early:
        pixels = invert(pixels)
    is_frontal = content is Content.FRONTAL
    return Sample(
        to_input(rotate(pixels, turn)),
        content,
        turn if is_frontal else _NO_TURN,
        inverted,
        image.patient,
    )


def draw_pool(
    material: TrainingImages,
    config: ContentTrainingConfig,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> SampleTensors:
    """Draw all samples that the networks are trained on.

    Each sample is a pure function of the seed and its number.

    Args:
        material: the images.
        config: the number of samples and the seed.
        on_progress: called with the samples done and their number.

    Returns:
        The samples.

    Raises:
        TrainingError: there is no frontal chest, or no other image.
    """
    if not (material.radiographs or material.painted_chests) or not material.painted_others:
        raise TrainingError("the content check needs frontal chests and other images")
    samples = []
    for number in range(config.samples):
        samples.append(draw_sample(material, np.random.default_rng([config.seed, number])))
        on_progress(number + 1, config.samples)
    return SampleTensors(
        pixels=torch.from_numpy(np.stack([sample.pixels for sample in samples])[:, None]),
        content=torch.tensor([int(sample.content) for sample in samples]),
        turn=torch.tensor([sample.turn for sample in samples]),
        inverted=torch.tensor([float(sample.inverted) for sample in samples]),
        patients=tuple(sample.patient for sample in samples),
    )


def train_network(
    pool: SampleTensors,
    config: ContentTrainingConfig,
    on_progress: Callable[[int, int], None] = lambda *_: None,
    *,
    without: frozenset[str] = frozenset(),
) -> ContentNetwork:
    """Train one network on a pool without some patients.

    The same pool and settings give the same weights on the same machine.

    Args:
        pool: the samples.
        config: the settings.
        on_progress: called with the epochs done and their number.
        without: patients whose samples are left out.

    Returns:
        The network, in evaluation mode.
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
        on_progress(epoch + 1, config.epochs)
    return network.eval()


def _loss(
    network: ContentNetwork,
    pool: SampleTensors,
    numbers: torch.Tensor,
    config: ContentTrainingConfig,
) -> torch.Tensor:
    images = pool.pixels[numbers].to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # Takes half the time; the loss stays f32.
        content, turn, inverted = (answer.float() for answer in network(images))
    turns, smooth = pool.turn[numbers], config.smoothing
    loss = functional.cross_entropy(content, pool.content[numbers], label_smoothing=smooth)
    frontal = turns != _NO_TURN
    if bool(frontal.any()):
        loss = loss + functional.cross_entropy(
            turn[frontal], turns[frontal], label_smoothing=smooth
        )
        soft = pool.inverted[numbers][frontal] * (1 - smooth) + smooth / 2
        loss = loss + functional.binary_cross_entropy_with_logits(inverted[frontal], soft)
    return loss


@torch.no_grad()
def predict(network: ContentNetwork, inputs: Sequence[Pixels]) -> list[ContentProbabilities]:
    """Return the network's probabilities for inputs of u8 (64, 64) each."""
    answers = []
    whole = ProbabilityHead(network).eval()
    for start in range(0, len(inputs), 256):
        batch = torch.from_numpy(np.stack(inputs[start : start + 256])[:, None])
        answers += [ContentProbabilities.from_outputs(row) for row in whole(batch).numpy()]
    return answers
