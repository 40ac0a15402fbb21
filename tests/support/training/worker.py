"""One process of the two that train together in tests; torchrun runs this file.

Arguments: a configuration, and a folder for `rank-N.json`.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import torch
from torch import nn

from training.config import Config, load_config
from training.errors import TrainingError
from training.models.network import build_model
from training.train.distributed import SINGLE_PROCESS, ProcessGroup, join_process_group
from training.train.loader import Batch, iter_batches
from training.train.loop import EpochReport, Progress
from training.train.losses import Criterion, weigh_classes
from training.train.run import load_training_data, run


def gradient(
    config: Config, group: ProcessGroup, batch: Batch, *, exchange: bool = True
) -> torch.Tensor:
    """All gradients of one step from the same weights; statistics of normalisation held fixed."""
    torch.manual_seed(3)
    model = build_model(config.train)
    sets = load_training_data(config)
    criterion = Criterion(
        model, group if exchange else SINGLE_PROCESS, weigh_classes(config.train, sets.train)
    )
    network = group.wrap(model) if exchange else model
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    predictions = network(torch.from_numpy(batch.pixels).float() / 255)
    loss = criterion(predictions, batch, unlabelled_weight=1.0, images=batch.global_size)
    torch.autograd.backward(loss.sum() * (group.world_size if exchange else 1))
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def main(config_path: Path, folder: Path) -> None:
    config = load_config(config_path)
    torch.set_num_threads(1)
    images: dict[int, list[str]] = defaultdict(list)
    weights: list[str] = []
    messages: list[str] = []

    def step(progress: Progress) -> None:
        images[progress.epoch] += progress.images

    def epoch(report: EpochReport) -> None:
        weights.append(report.weights)

    with join_process_group("cpu") as group:
        run(config, group, on_message=messages.append, on_step=step, on_epoch=epoch)
        entries = load_training_data(config).train
        whole = next(iter_batches(entries, config.train, 0))
        own = next(
            iter_batches(entries, config.train, 0, rank=group.rank, world_size=group.world_size)
        )
        alone = gradient(config, SINGLE_PROCESS, whole)
        together = gradient(config, group, own)
        unshared = gradient(config, group, own, exchange=False)
        try:
            group.check_agreement(f"digest of process {group.rank}")
            disagreement = ""
        except TrainingError as error:
            disagreement = error.message
        report = {
            "disagreement": disagreement,
            "weights": weights,
            "images": images,
            "messages": messages,
            "gradient_difference": float((together - alone).norm() / alone.norm()),
            "other_without_exchange": float((unshared - alone).norm() / alone.norm()),
        }
        (folder / f"rank-{group.rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
