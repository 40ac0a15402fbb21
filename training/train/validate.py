"""The metric that chooses a run's best epoch: mean average precision on the validation split.

Images and findings take the agent's path (letterbox, `edge_agent.core.findings`); the network is
torch's, in FP32. `hilum-train evaluate` measures a finished model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import nn

from edge_agent.core.findings import Finding, decode_findings
from edge_agent.core.geometry import Letterbox
from edge_agent.imaging.letterbox import apply_letterbox
from hilum.catalog import CATALOG
from hilum.manifest import HeadSpec
from training.config import TrainConfig
from training.data.dataset import LabelledImage
from training.evaluation.metrics import mean_average_precision
from training.train.distributed import ProcessGroup

_IOU: Final = {"map50": 0.5, "map40": 0.4}


def measure(
    model: nn.Module, entries: Sequence[LabelledImage], config: TrainConfig, group: ProcessGroup
) -> float:
    """Return the run's metric, on every process; each infers its share of the images.

    Args:
        model: in evaluation mode, on the group's device.
        entries: at least one of them with a labelled box.
        config: names the metric and the input's size.
        group: the processes that share the images.
    """
    own = entries[group.rank :: group.world_size]
    shares = group.gather(detect(model, own, config.input_size, group.device))
    if group.is_leader:
        findings: list[tuple[Finding, ...]] = [()] * len(entries)
        for rank, share in enumerate(shares):
            findings[rank :: group.world_size] = share
        return group.broadcast(mean_average_precision(entries, findings, _IOU[config.metric]))
    return group.broadcast(0.0)


@torch.no_grad()
def detect(
    model: nn.Module,
    entries: Sequence[LabelledImage],
    size: int,
    device: torch.device,
    *,
    batch: int = 8,
) -> list[tuple[Finding, ...]]:
    """Return the findings of every image in its own pixels, down to the head's lowest score.

    Args:
        model: in evaluation mode, on `device`.
        entries: the images.
        size: height and width of the input in pixels.
        device: torch's device.
        batch: images inferred together.
    """
    head = HeadSpec()
    floors = [head.score_floor] * len(CATALOG)
    findings = []
    for first in range(0, len(entries), batch):
        images = [entry.read_pixels() for entry in entries[first : first + batch]]
        fits = [Letterbox.fit(p.shape[0], p.shape[1], size, size) for p in images]
        stack = np.stack([apply_letterbox(p, f) for p, f in zip(images, fits, strict=True)])[
            :, None
        ]
        pixels = torch.from_numpy(stack).to(device).to(memory_format=torch.channels_last)
        outputs = model(pixels.float() / 255)[0].cpu().numpy()
        findings += [
            decode_findings(o, f, head, floors) for o, f in zip(outputs, fits, strict=True)
        ]
    return findings
