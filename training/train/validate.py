"""The one figure that a run is steered by: mean average precision on the validation split.

Pictures and findings take the clinic's path (letterbox, `edge_agent.core.findings`); the network is
torch's, in FP32. The figures of a finished model come from `hilum-train evaluate`.
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
    """The run's metric; every process looks at its share of the images, all learn the result.

    Args:
        model: in evaluation mode, on the group's device.
        entries: at least one of them with a labelled box.
        config: says which metric, and the input's size.
        group: who shares the work.
    """
    own = entries[group.rank :: group.world]
    shares = group.gather(detect(model, own, config.input_size, group.device))
    if group.leads:
        found: list[tuple[Finding, ...]] = [()] * len(entries)
        for rank, share in enumerate(shares):
            found[rank :: group.world] = share
        return group.told(mean_average_precision(entries, found, _IOU[config.metric]))
    return group.told(0.0)


@torch.no_grad()
def detect(
    model: nn.Module,
    entries: Sequence[LabelledImage],
    size: int,
    device: torch.device,
    *,
    batch: int = 8,
) -> list[tuple[Finding, ...]]:
    """Findings of every image in its own pixels, down to the head's lowest score."""
    head = HeadSpec()
    floors = [head.score_floor] * len(CATALOG)
    found = []
    for first in range(0, len(entries), batch):
        pictures = [entry.read_pixels() for entry in entries[first : first + batch]]
        fits = [Letterbox.fit(p.shape[0], p.shape[1], size, size) for p in pictures]
        stack = np.stack([apply_letterbox(p, f) for p, f in zip(pictures, fits, strict=True)])[
            :, None
        ]
        pixels = torch.from_numpy(stack).to(device).to(memory_format=torch.channels_last)
        outputs = model(pixels.float() / 255)[0].cpu().numpy()
        found += [decode_findings(o, f, head, floors) for o, f in zip(outputs, fits, strict=True)]
    return found
