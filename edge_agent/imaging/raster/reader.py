"""JPEG, PNG and TIFF files to radiographs.

Such files name neither the view nor the patient. They have no VOI window either, so for pictures
of more than 8 bits one is estimated from the pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from edge_agent.core.radiograph import ImageFacts, ImageFormat, Radiograph
from edge_agent.imaging.dicom import header_check
from edge_agent.imaging.inversion_check import is_likely_inverted
from edge_agent.imaging.letterbox import compute_inner_size, resize
from edge_agent.imaging.limits import Limits
from edge_agent.imaging.orientation import TRANSPOSING, undo_orientation
from edge_agent.imaging.presentation import Presentation
from edge_agent.imaging.raster.header import RasterHeader, Size
from edge_agent.imaging.raster.jpeg import parse_jpeg
from edge_agent.imaging.raster.png import parse_png
from edge_agent.imaging.raster.tiff import parse_tiff
from hilum.codes import WarningCode

_PARSERS: Final[dict[str, Callable[[memoryview], RasterHeader]]] = {
    "jpeg": parse_jpeg,
    "png": parse_png,
    "tiff": parse_tiff,
}


def read_raster(
    data: memoryview, kind: ImageFormat, limits: Limits, fit: Size | None
) -> Radiograph:
    """Read one picture.

    Args:
        data: the file.
        kind: `jpeg`, `png` or `tiff`.
        limits: bounds on the declared size.
        fit: height and width in pixels of the model's input, or None for full resolution.

    Returns:
        The radiograph, upright, with warnings for what such a file cannot declare.

    Raises:
        StudyImageRefused: its size, its format or its bytes are not accepted.
    """
    header = _PARSERS[kind](data)
    limits.check_image_size(header.rows, header.columns)
    is_transposed = header.orientation in TRANSPOSING
    rows, columns = header.rows, header.columns
    if is_transposed:
        rows, columns = columns, rows
    size = compute_inner_size(rows, columns, fit)
    stored_size = size[::-1] if is_transposed else size
    grey = header.decode(stored_size)
    warnings = [header_check.make_warning(WarningCode.UNKNOWN_VIEW)]
    if grey.dtype == np.uint8:
        pixels = resize(grey, *stored_size)
        pixels = 255 - pixels if header.is_inverted else pixels
    else:
        pixels = Presentation(is_inverted=header.is_inverted).render(grey, *stored_size)
        warnings.append(header_check.make_warning(WarningCode.MISSING_WINDOW))
    pixels = np.ascontiguousarray(undo_orientation(pixels, header.orientation))
    if is_likely_inverted(pixels):
        warnings.append(header_check.make_warning(WarningCode.LOOKS_INVERTED))
    return Radiograph(
        pixels=pixels,
        facts=ImageFacts(
            rows=rows,
            columns=columns,
            format=kind,
            bits_stored=header.bits,
            view="",
            laterality="",
            body_part="",
            manufacturer="",
            photometric=header.photometric,
            transfer_syntax="",
            spacing=None,
        ),
        warnings=tuple(warnings),
    )
