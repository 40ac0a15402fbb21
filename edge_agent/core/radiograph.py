"""What one study image is to the detector: a picture and facts, nothing about whose it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hilum.codes import WarningCode

ImageFormat = Literal["dicom", "jpeg", "png", "tiff"]


@dataclass(frozen=True, slots=True)
class ImageWarning:
    """Something to be wary of in an image that was accepted."""

    code: WarningCode
    message: str


@dataclass(frozen=True, slots=True)
class Spacing:
    """Distance between pixel centres as the header says; not the patient's own millimetres."""

    row_mm: float
    column_mm: float


@dataclass(frozen=True, slots=True, eq=False)
class Radiograph:
    """One radiograph, ready to be looked at; carries nothing that tells whose it is.

    `pixels` is u8 of shape (H, W), C-contiguous, bright where X-rays were absorbed (bone is
    white). It may have been shrunk while decoding; `rows` and `columns` are the original's.
    """

    pixels: NDArray[np.uint8]
    rows: int
    columns: int
    format: ImageFormat
    bits_stored: int
    view: str = ""
    laterality: str = ""
    body_part: str = ""
    manufacturer: str = ""
    photometric: str = ""
    transfer_syntax: str = ""
    spacing: Spacing | None = None
    warnings: tuple[ImageWarning, ...] = ()
