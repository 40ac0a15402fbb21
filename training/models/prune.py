"""Structured magnitude pruning: removes whole channels, so that every runtime computes less.

Only channels between one convolution and the next are removed, where no other layer reads them:
inside bottlenecks, feed-forward parts and the head's branches. Channels between blocks stay, so no
graph is traced. Why whole channels: docs/decisions/0063-structured-pruning.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn
from ultralytics.nn.modules import Bottleneck, Conv, Detect
from ultralytics.nn.modules.block import PSABlock

STEP: Final = 8
"""Widths stay multiples of this, which fills vector units and INT8 kernels."""


@dataclass(frozen=True, slots=True, eq=False)
class ChannelGroup:
    """Channels that `producer` writes, `depthwise` passes on, and only `consumer` reads."""

    name: str
    producer: Conv
    depthwise: tuple[Conv, ...]
    consumer: nn.Conv2d

    @property
    def width(self) -> int:
        """Return the number of channels."""
        return int(self.producer.conv.out_channels)


def find_channel_groups(model: nn.Module) -> Iterator[ChannelGroup]:
    """Yield the channel groups of a YOLO11 that can shrink alone, in the model's order."""
    for name, module in model.named_modules():
        if isinstance(module, Bottleneck):
            yield ChannelGroup(f"{name}.cv1", module.cv1, (), module.cv2.conv)
        elif isinstance(module, PSABlock):
            yield ChannelGroup(f"{name}.ffn.0", module.ffn[0], (), module.ffn[1].conv)
        elif isinstance(module, Detect):
            for k, (first, second, last) in enumerate(module.cv2):
                yield ChannelGroup(f"{name}.cv2.{k}.0", first, (), second.conv)
                yield ChannelGroup(f"{name}.cv2.{k}.1", second, (), last)
            for k, (first, second, last) in enumerate(module.cv3):
                yield ChannelGroup(f"{name}.cv3.{k}.0.1", first[1], (second[0],), second[1].conv)
                yield ChannelGroup(f"{name}.cv3.{k}.1.1", second[1], (), last)


@torch.no_grad()
def prune(model: nn.Module, share: float) -> int:
    """Remove the weakest channels of every group and return how many were removed.

    A channel's magnitude is the L1 norm of its filter with the batch normalisation folded in, a
    bound on its contribution.

    Args:
        model: a YOLO11, changed in place.
        share: of each group's channels to remove, rounded so that a multiple of `STEP` stays.
    """
    removed = 0
    for group in find_channel_groups(model):
        width = group.width
        kept = min(width, max(STEP, STEP * round(width * (1 - share) / STEP)))
        norm = group.producer.bn
        gain = norm.weight.abs() / torch.sqrt(norm.running_var + norm.eps)
        magnitude = gain * group.producer.conv.weight.abs().sum(dim=(1, 2, 3))
        keep_channels(group, magnitude.topk(kept).indices.sort().values)
        removed += width - kept
    return removed


def shrink_to(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Give a full-width network the widths of a pruned network's state, to load it afterwards."""
    for group in find_channel_groups(model):
        stored = state.get(f"{group.name}.conv.weight")
        if stored is not None and stored.shape[0] < group.width:
            keep_channels(group, torch.arange(stored.shape[0]))


@torch.no_grad()
def keep_channels(group: ChannelGroup, channels: torch.Tensor) -> None:
    """Keep only these channels of a group, i64 (kept,), ascending."""
    for part in (group.producer, *group.depthwise):
        conv, norm = part.conv, part.bn
        conv.weight = nn.Parameter(conv.weight[channels])
        conv.out_channels = len(channels)
        norm.weight = nn.Parameter(norm.weight[channels])
        norm.bias = nn.Parameter(norm.bias[channels])
        norm.running_mean = norm.running_mean[channels]
        norm.running_var = norm.running_var[channels]
        norm.num_features = len(channels)
    for part in group.depthwise:
        part.conv.in_channels = part.conv.groups = len(channels)
    group.consumer.weight = nn.Parameter(group.consumer.weight[:, channels])
    group.consumer.in_channels = len(channels)
