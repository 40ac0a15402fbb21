"""The interface of every engine: pixels in, raw outputs out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
RawOutputs = NDArray[np.float32]


MAX_BATCH: Final = 8
"""The most images that are run at once on a graph which leaves their number open."""


def iter_batches(batch: Pixels, most: int) -> Iterator[Pixels]:
    """Yield a batch u8 (N, ...) in parts of at most `most` images, in their order."""
    for start in range(0, len(batch), most):
        yield batch[start : start + most]


class Engine(Protocol):
    """A compiled model on a runtime.

    `infer` may be called from several threads at once. The same batch gives the same outputs.
    """

    @property
    def name(self) -> str:
        """The bundle's engine variant, such as `openvino-int8`."""
        ...

    @property
    def compute_device(self) -> str:
        """The processor that computes, such as `CPU: AMD EPYC`."""
        ...

    @property
    def max_batch(self) -> int:
        """The most images of one run of the model; a longer batch takes several runs."""
        ...

    def infer(self, batch: Pixels) -> RawOutputs:
        """Run the model.

        Args:
            batch: u8 of shape (N, 1, H, W), H and W as the manifest's input declares.

        Returns:
            f32 of shape (N, 4 + classes, anchors), as `hilum.manifest.HeadSpec` declares; owned by
            the caller.

        Raises:
            EngineFailed: the runtime computed no output, or the batch has a wrong shape.
        """
        ...

    def close(self) -> None:
        """Free the model. Calling `infer` afterwards raises EngineFailed."""
        ...
