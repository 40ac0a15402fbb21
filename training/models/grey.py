"""A network made for three equal channels, turned into one for a single grey channel."""

from __future__ import annotations

import copy

from torch import nn
from ultralytics.nn.tasks import DetectionModel


def to_grey(model: DetectionModel) -> DetectionModel:
    """The same network for one grey channel; a grey picture gives the same outputs.

    Exact for weights made for three channels that were all fed the same picture: a convolution is
    linear, so its weights are summed over the input channels.
    """
    grey = copy.deepcopy(model).float().eval()
    first = grey.model[0].conv
    if first.in_channels != 1:
        summed = nn.Conv2d(
            1,
            first.out_channels,
            first.kernel_size,
            first.stride,
            first.padding,
            bias=first.bias is not None,
        )
        summed.weight = nn.Parameter(first.weight.sum(dim=1, keepdim=True))
        summed.bias = first.bias
        grey.model[0].conv = summed
    return grey
