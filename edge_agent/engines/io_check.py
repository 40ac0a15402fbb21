"""Checks that all engines share: the form of a model, of its input batches and of its outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from edge_agent.core.findings import BOX_ROWS
from edge_agent.engines.base import Pixels, RawOutputs
from edge_agent.errors import BundleInvalid, EngineFailed, HilumError
from hilum.manifest import InputSpec, Manifest

ANY: Final = -1
"""A size that the model leaves open."""


@dataclass(frozen=True, slots=True)
class TensorForm:
    """An input or output of a model: numpy's name of its dtype, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        sizes = ", ".join("any" if size == ANY else str(size) for size in self.shape)
        return f"{self.dtype} ({sizes})"


def check_model_form(
    inputs: Sequence[TensorForm], outputs: Sequence[TensorForm], manifest: Manifest
) -> None:
    """Check that a model's inputs and outputs are those that its manifest declares.

    Args:
        inputs: should be one, uint8 of shape (N, 1, H, W), N being 1 or `ANY`.
        outputs: should be one, float32 of shape (N, 4 + findings, anchors).
        manifest: the bundle's.

    Raises:
        BundleInvalid: the model has another form.
    """
    spec, rows = manifest.input, BOX_ROWS + len(manifest.findings)
    sizes = (spec.channels, spec.height, spec.width)
    if [(form.dtype, form.shape[1:]) for form in inputs] != [("uint8", sizes)]:
        raise BundleInvalid(
            f"the model's inputs are {_join(inputs)}, not uint8 (N, {str(sizes)[1:]}"
        )
    if [(form.dtype, form.shape[1:2]) for form in outputs] != [("float32", (rows,))]:
        raise BundleInvalid(
            f"the model's outputs are {_join(outputs)}, not float32 (N, {rows}, anchors)"
        )
    if inputs[0].shape[0] not in {1, ANY}:
        raise BundleInvalid("the model takes only batches of one fixed size")


def check_batch(engine: str, batch: Pixels, spec: InputSpec) -> None:
    """Check that a batch is u8 of shape (N, 1, H, W) and not empty.

    Args:
        engine: the variant's name, for the message.
        batch: the images.
        spec: the manifest's input.

    Raises:
        EngineFailed: the batch has another form.
    """
    sizes = (spec.channels, spec.height, spec.width)
    if batch.dtype != np.uint8 or batch.shape[1:] != sizes or not batch.size:
        raise EngineFailed(
            f"a batch of {batch.dtype} {batch.shape}; {engine} takes u8 (N, *{sizes})"
        )


def check_finite(engine: str, outputs: RawOutputs) -> None:
    """Check that every output is a finite number.

    Raises:
        EngineFailed: an output is infinite or not a number.
    """
    if not np.isfinite(outputs).all():
        raise EngineFailed(f"{engine} computed outputs that are not finite")


def make_blank_batch(spec: InputSpec, images: int = 1) -> Pixels:
    """Return a batch of empty images, u8 of shape (images, 1, H, W), to warm up an engine."""
    return np.full((images, spec.channels, spec.height, spec.width), spec.pad_value, np.uint8)


@contextmanager
def translate_errors(runtime: str, action: str) -> Iterator[None]:
    """Convert every exception of a runtime to EngineFailed.

    Args:
        runtime: its name, for the message.
        action: the action that failed, for the message.

    Raises:
        EngineFailed: the block raised an error that is not a HilumError.
    """
    try:
        yield
    except HilumError:
        raise
    except Exception as error:
        raise EngineFailed(f"{runtime} could not {action}: {error}") from error


def _join(forms: Sequence[TensorForm]) -> str:
    return ", ".join(map(str, forms)) or "none"
