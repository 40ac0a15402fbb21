"""What each process of a two-process training does in tests; run by torchrun.

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
from training.train.distributed import ALONE, ProcessGroup, joined
from training.train.loader import Batch, batches
from training.train.loop import EpochReport, Progress
from training.train.losses import Criterion, class_weights
from training.train.run import read_sets, run


def gradient(
    config: Config, group: ProcessGroup, batch: Batch, *, exchange: bool = True
) -> torch.Tensor:
    """All gradients of one step from the same weights; statistics of normalisation held fixed."""
    torch.manual_seed(3)
    model = build_model(config.train)
    sets = read_sets(config)
    criterion = Criterion(
        model, group if exchange else ALONE, class_weights(config.train, sets.train)
    )
    network = group.wrap(model) if exchange else model
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    predictions = network(torch.from_numpy(batch.pixels).float() / 255)
    loss = criterion(predictions, batch, hidden_weight=1.0, images=batch.together)
    torch.autograd.backward(loss.sum() * (group.world if exchange else 1))
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def main(config_path: Path, folder: Path) -> None:
    config = load_config(config_path)
    torch.set_num_threads(1)
    images: dict[int, list[str]] = defaultdict(list)
    weights: list[str] = []
    said: list[str] = []

    def step(progress: Progress) -> None:
        images[progress.epoch] += progress.images

    def epoch(report: EpochReport) -> None:
        weights.append(report.weights)

    with joined("cpu") as group:
        run(config, group, say=said.append, on_step=step, on_epoch=epoch)
        entries = read_sets(config).train
        whole = next(batches(entries, config.train, 0))
        own = next(batches(entries, config.train, 0, rank=group.rank, world=group.world))
        alone = gradient(config, ALONE, whole)
        together = gradient(config, group, own)
        unshared = gradient(config, group, own, exchange=False)
        try:
            group.check_agreement(f"digest of process {group.rank}")
            disagreement = ""
        except TrainingError as error:
            disagreement = error.message
        told = {
            "disagreement": disagreement,
            "weights": weights,
            "images": images,
            "said": said,
            "gradient_difference": float((together - alone).norm() / alone.norm()),
            "other_without_exchange": float((unshared - alone).norm() / alone.norm()),
        }
        (folder / f"rank-{group.rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
