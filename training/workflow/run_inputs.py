"""The inputs that the stages after training share: splits, network inputs, the exported weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_agent.core.geometry import Letterbox
from edge_agent.imaging.letterbox import apply_letterbox
from hilum.manifest import InputSpec
from training.config import Config
from training.data import dataset, splits
from training.data.dataset import LabelledImage
from training.errors import TrainingError
from training.export.artifacts import (
    ExportArtifacts,
)


def read_split(config: Config, name: str) -> tuple[tuple[LabelledImage, ...], str]:
    """Return the images of a frozen split of the configured set, and the split's digest.

    Raises:
        TrainingError: the set or the split is absent or damaged, the split is empty, or it names
            an image that the set does not hold.
    """
    folder = config.data.dataset
    split = splits.load_split(config.data.split_file or folder)
    return dataset.select_split(folder, dataset.load_dataset(folder), split, name), split.digest


def to_input(entry: LabelledImage, spec: InputSpec) -> tuple[NDArray[np.uint8], Letterbox]:
    """Return the network's input for an image, u8 (1, 1, H, W), and the letterbox of the image."""
    pixels = entry.read_pixels()
    fit = Letterbox.fit(pixels.shape[0], pixels.shape[1], spec.height, spec.width)
    return apply_letterbox(pixels, fit, spec.pad_value)[None, None], fit


def check_same_weights(path: Path, exported: ExportArtifacts) -> None:
    """Check that a weights file is the one that was exported.

    Raises:
        TrainingError: it is absent, or holds other weights.
    """
    if not path.is_file():
        raise TrainingError(f"there are no weights {path}", hint="Run `hilum-train run` first.")
    if hashlib.sha256(path.read_bytes()).hexdigest() != exported.manifest.weights_sha256:
        raise TrainingError(
            f"{path} holds other weights than were exported",
            hint="Run `hilum-train export` again.",
        )
