"""A radiograph as the detector receives it: pixels and image facts, nothing about the patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hilum.codes import WarningCode

ImageFormat = Literal["dicom", "jpeg", "png", "tiff"]


@dataclass(frozen=True, slots=True)
class ImageWarning:
    """A warning about an accepted image, for those who read its findings."""

    code: WarningCode
    message: str


@dataclass(frozen=True, slots=True)
class Spacing:
    """Distance between pixel centres as the header declares it; not measured in the patient."""

    row_mm: float
    column_mm: float


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """The header's facts about the image. Texts are empty and `spacing` is None where unknown.

    `rows` x `columns` is the size of the original image in pixels.
    """

    # The gRPC contract, the HTTP answers and the client carry each of these fields by this name.
    rows: int
    columns: int
    format: ImageFormat
    bits_stored: int
    view: str
    laterality: str
    body_part: str
    manufacturer: str
    photometric: str
    transfer_syntax: str
    spacing: Spacing | None


@dataclass(frozen=True, slots=True, eq=False)
class Radiograph:
    """A decoded radiograph, without anything that identifies the patient.

    `pixels` is u8 of shape (H, W), C-contiguous, bright where X-rays were absorbed (bone is
    white). It may have been shrunk while decoding; `facts` gives the original's size.
    """

    pixels: NDArray[np.uint8]
    facts: ImageFacts
    warnings: tuple[ImageWarning, ...] = ()
