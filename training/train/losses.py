"""ultralytics' detection loss, weighted: by class, by reader, by what may be hidden, by process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.loss import v8DetectionLoss
from ultralytics.utils.tal import TaskAlignedAssigner

from hilum.catalog import BY_SLUG, CATALOG
from training.config import TrainConfig
from training.data.dataset import LabelledImage
from training.train.distributed import ProcessGroup
from training.train.loader import Batch

_MOST: Final = 4.0
"""No class counts more than this many times, or less than this fraction."""


class PartialLabelBce(nn.Module):
    """Binary cross-entropy that says little about the absence of classes an image may hide.

    `weight` f32 (N, classes) is set for every batch: what the absence of a class counts. Positive
    targets always count in full.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.ones(1, len(CATALOG))

    def forward(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss per anchor and class, (N, anchors, classes)."""
        loss = nn.functional.binary_cross_entropy_with_logits(scores, targets, reduction="none")
        return loss * torch.where(targets > 0, 1.0, self.weight[:, None, :])


class WeightedAssigner(nn.Module):
    """ultralytics' assignment of anchors to boxes; a box of weight w is a target of w at most.

    `weights` f32 (N, boxes) is set for every batch; `total` is then the sum of all target scores,
    by which the loss is normalised.
    """

    def __init__(self, assigner: TaskAlignedAssigner) -> None:
        super().__init__()
        self.assigner = assigner
        self.weights: torch.Tensor | None = None
        self.total = torch.zeros(())

    @torch.no_grad()
    def forward(self, *arguments: Any) -> tuple[torch.Tensor, ...]:  # noqa: ANN401 - ultralytics'
        """What ultralytics' assigner answers, with weighted target scores."""
        labels, boxes, scores, foreground, index = self.assigner(*arguments)
        if self.weights is not None and self.weights.shape[1]:
            scores = scores * self.weights.gather(1, index.long())[..., None]
        self.total = scores.sum()
        return labels, boxes, scores, foreground, index


class Criterion:
    """The loss of one step, so scaled that the sum over all processes is that of the whole batch.

    ultralytics divides by the target scores of what it sees. Processes that each see a part of a
    batch would divide by different sums, and their mean would be another loss than one process's.
    """

    def __init__(
        self, model: DetectionModel, group: ProcessGroup, class_weights: torch.Tensor
    ) -> None:
        model.class_weights = class_weights
        self.loss = v8DetectionLoss(model)
        self.loss.bce = PartialLabelBce()
        self.loss.assigner = WeightedAssigner(self.loss.assigner)
        self.group = group

    def __call__(
        self, predictions: dict[str, Any], batch: Batch, *, hidden_weight: float, images: int
    ) -> torch.Tensor:
        """This process's share of box, class and DFL loss, f32 (3,), summed over its images.

        Args:
            predictions: of the network, in training mode.
            batch: this process's images.
            hidden_weight: what an absence that nobody has confirmed counts.
            images: how many all processes have together.
        """
        device = self.group.device
        known = torch.from_numpy(batch.known).to(device)
        self.loss.bce.weight = torch.where(known, 1.0, hidden_weight)
        self.loss.assigner.weights = _by_image(batch).to(device)
        # Assignment and loss need full precision; only the convolutions run in BF16.
        full = {
            key: [v.float() for v in value] if isinstance(value, list) else value.float()
            for key, value in predictions.items()
        }
        targets = {
            "batch_idx": torch.from_numpy(batch.image).float().to(device),
            "cls": torch.from_numpy(batch.classes).float()[:, None].to(device),
            "bboxes": torch.from_numpy(batch.boxes).to(device),
        }
        parts: torch.Tensor = self.loss(full, targets)[0]
        own = self.loss.assigner.total
        together = self.group.total(own.clone())
        scale = own.clamp(min=1) / together.clamp(min=1) * images / len(batch.pixels)
        loss: torch.Tensor = parts * scale
        return loss


def _by_image(batch: Batch) -> torch.Tensor:
    """Weights of the boxes in the rows that ultralytics puts them in, f32 (N, most per image)."""
    rows: list[list[float]] = [[] for _ in range(len(batch.pixels))]
    for image, weight in zip(batch.image.tolist(), batch.weights.tolist(), strict=True):
        rows[image].append(weight)
    longest = max(map(len, rows), default=0)
    return torch.tensor([row + [0.0] * (longest - len(row)) for row in rows]).reshape(
        len(rows), longest
    )


def class_weights(config: TrainConfig, entries: Sequence[LabelledImage]) -> torch.Tensor:
    """What each class counts in the loss, f32 (classes,).

    Balanced is the root of how much rarer a class is than the middle one, within bounds: in full
    it would teach the network the few rare examples by heart.
    """
    weights = torch.ones(len(CATALOG))
    if isinstance(config.class_weights, dict):
        for slug, weight in config.class_weights.items():
            weights[BY_SLUG[slug].index] = weight
    elif config.class_weights == "balanced":
        counts = count(entries)
        present = sorted(n for n in counts if n)
        if present:
            middle = present[len(present) // 2]
            for index, n in enumerate(counts):
                weights[index] = (middle / n) ** 0.5 if n else 1.0
    return weights.clamp(1 / _MOST, _MOST) if config.class_weights == "balanced" else weights


def count(entries: Sequence[LabelledImage]) -> list[int]:
    """Boxes of each class, in the catalogue's order."""
    boxes = Counter(label.index for entry in entries for label in entry.labels)
    return [boxes[finding.index] for finding in CATALOG]
