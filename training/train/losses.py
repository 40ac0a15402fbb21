"""ultralytics' detection loss with weights for classes, readers and partial labels.

Its scale makes the sum over all processes the loss of the whole batch.
"""

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

_MAX_BALANCE: Final = 4.0
"""Largest weight of a class; the smallest is one over it."""


class PartialLabelBce(nn.Module):
    """Binary cross-entropy that down-weights negatives of classes not labelled in an image.

    `weight` f32 (N, classes) is set for every batch: the weight of a negative target. Positive
    targets have weight 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.ones(1, len(CATALOG))

    def forward(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss per anchor and class, f32 (N, anchors, classes)."""
        loss = nn.functional.binary_cross_entropy_with_logits(scores, targets, reduction="none")
        return loss * torch.where(targets > 0, 1.0, self.weight[:, None, :])


class WeightedAssigner(nn.Module):
    """ultralytics' assignment of anchors to boxes; a box of weight w is a target of at most w.

    `weights` f32 (N, boxes) is set for every batch. `score_sum` is then the sum of all target
    scores, by which the loss is normalised.
    """

    def __init__(self, assigner: TaskAlignedAssigner) -> None:
        super().__init__()
        self.assigner = assigner
        self.weights: torch.Tensor | None = None
        self.score_sum = torch.zeros(())

    @torch.no_grad()
    def forward(self, *arguments: Any) -> tuple[torch.Tensor, ...]:  # noqa: ANN401 - ultralytics'
        """Return the output of ultralytics' assigner, with weighted target scores."""
        labels, boxes, scores, foreground, index = self.assigner(*arguments)
        if self.weights is not None and self.weights.shape[1]:
            scores = scores * self.weights.gather(1, index.long())[..., None]
        self.score_sum = scores.sum()
        return labels, boxes, scores, foreground, index


class Criterion:
    """The loss of one step, scaled so that the sum over all processes is the whole batch's loss.

    ultralytics divides by the sum of target scores of the images it is given. Processes with
    different images would divide by different sums, and the mean of their losses would not be the
    loss that one process computes.
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
        self, predictions: dict[str, Any], batch: Batch, *, unlabelled_weight: float, images: int
    ) -> torch.Tensor:
        """Return this process's share of box, class and DFL loss, f32 (3,), summed over its images.

        Args:
            predictions: outputs of the network in training mode.
            batch: this process's images.
            unlabelled_weight: weight of a negative that no reader has confirmed.
            images: images of this step in all processes together.
        """
        device = self.group.device
        known = torch.from_numpy(batch.known).to(device)
        self.loss.bce.weight = torch.where(known, 1.0, unlabelled_weight)
        self.loss.assigner.weights = _weights_by_image(batch).to(device)
        # Assignment and loss need full precision; only the convolutions run in BF16.
        full = {
            key: [v.float() for v in value] if isinstance(value, list) else value.float()
            for key, value in predictions.items()
        }
        targets = {
            "batch_idx": torch.from_numpy(batch.image_index).float().to(device),
            "cls": torch.from_numpy(batch.classes).float()[:, None].to(device),
            "bboxes": torch.from_numpy(batch.boxes).to(device),
        }
        parts: torch.Tensor = self.loss(full, targets)[0]
        own = self.loss.assigner.score_sum
        total = self.group.all_reduce_sum(own.clone())
        scale = own.clamp(min=1) / total.clamp(min=1) * images / len(batch.pixels)
        loss: torch.Tensor = parts * scale
        return loss


def _weights_by_image(batch: Batch) -> torch.Tensor:
    """Return box weights in the rows that ultralytics uses, f32 (N, most boxes of an image)."""
    rows: list[list[float]] = [[] for _ in range(len(batch.pixels))]
    for image, weight in zip(batch.image_index.tolist(), batch.weights.tolist(), strict=True):
        rows[image].append(weight)
    longest = max(map(len, rows), default=0)
    return torch.tensor([row + [0.0] * (longest - len(row)) for row in rows]).reshape(
        len(rows), longest
    )


def weigh_classes(config: TrainConfig, entries: Sequence[LabelledImage]) -> torch.Tensor:
    """Return the weight of each class in the loss, f32 (classes,).

    `balanced` is the square root of how much rarer a class is than the median one, within bounds.
    The full ratio would make the network memorise the few rare examples.
    """
    weights = torch.ones(len(CATALOG))
    if isinstance(config.class_weights, dict):
        for slug, weight in config.class_weights.items():
            weights[BY_SLUG[slug].index] = weight
    elif config.class_weights == "balanced":
        counts = count_boxes(entries)
        present = sorted(n for n in counts if n)
        if present:
            middle = present[len(present) // 2]
            for index, n in enumerate(counts):
                weights[index] = (middle / n) ** 0.5 if n else 1.0
    return (
        weights.clamp(1 / _MAX_BALANCE, _MAX_BALANCE)
        if config.class_weights == "balanced"
        else weights
    )


def count_boxes(entries: Sequence[LabelledImage]) -> list[int]:
    """Return the number of boxes of each class, in the catalogue's order."""
    boxes = Counter(label.index for entry in entries for label in entry.labels)
    return [boxes[finding.index] for finding in CATALOG]
