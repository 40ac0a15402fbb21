"""What every engine is: pixels in, raw outputs out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
RawOutputs = NDArray[np.float32]


MAX_BATCH: Final = 8
"""Images at once that a graph for any number of them is run on."""


def iter_batches(batch: Pixels, most: int) -> Iterator[Pixels]:
    """A batch u8 (N, ...) in pieces of at most so many images, in their order."""
    for start in range(0, len(batch), most):
        yield batch[start : start + most]


class Engine(Protocol):
    """One compiled model on one runtime.

    `infer` may be called from any thread, from several at once. It is pure with respect to the
    model: the same batch gives the same outputs.
    """

    @property
    def name(self) -> str:
        """The bundle's engine variant, such as `openvino-int8`."""
        ...

    @property
    def compute_device(self) -> str:
        """What computes, such as `CPU: AMD EPYC`."""
        ...

    @property
    def max_batch(self) -> int:
        """How many images one run of the model takes; a longer batch is several runs."""
        ...

    def infer(self, batch: Pixels) -> RawOutputs:
        """Run the model.

        Args:
            batch: u8 of shape (N, 1, H, W), H and W as the manifest's input says.

        Returns:
            f32 of shape (N, 4 + classes, anchors), as `hilum.manifest.HeadSpec` says; owned by
            the caller.

        Raises:
            EngineFailed: the runtime did not compute an answer, or the batch has a wrong shape.
        """
        ...

    def close(self) -> None:
        """Free the model. Calling `infer` afterwards raises EngineFailed."""
        ...
