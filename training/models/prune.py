"""Structured magnitude pruning: whole channels go, so that every runtime has less to compute.

Only channels that one convolution hands to the next and to nobody else are taken: inside
bottlenecks, feed-forward parts and the head's branches. What blocks exchange keeps its width, so
there is no graph to trace. Why whole channels: docs/decisions/0063-structured-pruning.md.
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
"""Widths stay multiples of this, which is what vector units and INT8 kernels are filled with."""


@dataclass(frozen=True, slots=True, eq=False)
class ChannelGroup:
    """Channels that `maker` makes, `between` pass on one by one, and `user` alone reads."""

    name: str
    maker: Conv
    between: tuple[Conv, ...]
    user: nn.Conv2d

    @property
    def width(self) -> int:
        """How many channels there are."""
        return int(self.maker.conv.out_channels)


def links(model: nn.Module) -> Iterator[ChannelGroup]:
    """All channels of a YOLO11 that can go without anybody else noticing, in the model's order."""
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
    """Take the weakest channels of every link; how many went.

    A channel's magnitude is the L1 norm of its filter with the batch normalisation folded in: what
    it can contribute at all.

    Args:
        model: a YOLO11, changed in place.
        share: of each link's channels that go, rounded so that a multiple of `STEP` stays.
    """
    gone = 0
    for link in links(model):
        width = link.width
        kept = min(width, max(STEP, STEP * round(width * (1 - share) / STEP)))
        norm = link.maker.bn
        gain = norm.weight.abs() / torch.sqrt(norm.running_var + norm.eps)
        magnitude = gain * link.maker.conv.weight.abs().sum(dim=(1, 2, 3))
        keep(link, magnitude.topk(kept).indices.sort().values)
        gone += width - kept
    return gone


def shrink_to(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Give a full-width network the widths of a pruned one's state, to load it then."""
    for link in links(model):
        stored = state.get(f"{link.name}.conv.weight")
        if stored is not None and stored.shape[0] < link.width:
            keep(link, torch.arange(stored.shape[0]))


@torch.no_grad()
def keep(link: ChannelGroup, channels: torch.Tensor) -> None:
    """Leave only these channels of a link, i64 (kept,), ascending."""
    for part in (link.maker, *link.between):
        conv, norm = part.conv, part.bn
        conv.weight = nn.Parameter(conv.weight[channels])
        conv.out_channels = len(channels)
        norm.weight = nn.Parameter(norm.weight[channels])
        norm.bias = nn.Parameter(norm.bias[channels])
        norm.running_mean = norm.running_mean[channels]
        norm.running_var = norm.running_var[channels]
        norm.num_features = len(channels)
    for part in link.between:
        part.conv.in_channels = part.conv.groups = len(channels)
    link.user.weight = nn.Parameter(link.user.weight[:, channels])
    link.user.in_channels = len(channels)
