"""Conversion of a network for three equal channels into one for a single grey channel."""

from __future__ import annotations

import copy

from torch import nn
from ultralytics.nn.tasks import DetectionModel


def to_grey(model: DetectionModel) -> DetectionModel:
    """Return a copy of the network for one grey channel; a grey image gives the same outputs.

    A convolution is linear, so summing its weights over the input channels is exact for an image
    that is the same in all three.
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
