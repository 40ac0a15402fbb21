"""JPEG, PNG and TIFF files to radiographs.

Nothing in such a file tells the view or whose picture it is. What has more than 8 bits has no
window either, so one is estimated from the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from edge_agent.core.radiograph import ImageFacts, ImageFormat, Radiograph
from edge_agent.imaging.dicom import acceptance
from edge_agent.imaging.letterbox import compute_inner_size, resize
from edge_agent.imaging.limits import Limits
from edge_agent.imaging.orientation import TRANSPOSING, undo_orientation
from edge_agent.imaging.polarity import is_likely_inverted
from edge_agent.imaging.presentation import Presentation
from edge_agent.imaging.raster.header import RasterHeader, Size
from edge_agent.imaging.raster.jpeg import parse_jpeg
from edge_agent.imaging.raster.png import parse_png
from edge_agent.imaging.raster.tiff import parse_tiff
from hilum.codes import WarningCode

_DECLARE: Final[dict[str, Callable[[memoryview], RasterHeader]]] = {
    "jpeg": parse_jpeg,
    "png": parse_png,
    "tiff": parse_tiff,
}


def read_raster(
    data: memoryview, kind: ImageFormat, limits: Limits, fit: Size | None
) -> Radiograph:
    """Read one picture.

    Raises:
        StudyImageRefused: its size, its form or its bytes are not accepted.
    """
    declared = _DECLARE[kind](data)
    limits.check_image_size(declared.rows, declared.columns)
    turned = declared.orientation in TRANSPOSING
    rows, columns = declared.rows, declared.columns
    if turned:
        rows, columns = columns, rows
    size = compute_inner_size(rows, columns, fit)
    stored_size = size[::-1] if turned else size
    decoded = declared.decode(stored_size)
    warnings = [acceptance.make_warning(WarningCode.UNKNOWN_VIEW)]
    if decoded.dtype == np.uint8:
        pixels = resize(decoded, *stored_size)
        pixels = 255 - pixels if declared.is_inverted else pixels
    else:
        pixels = Presentation(is_inverted=declared.is_inverted).render(decoded, *stored_size)
        warnings.append(acceptance.make_warning(WarningCode.MISSING_WINDOW))
    pixels = np.ascontiguousarray(undo_orientation(pixels, declared.orientation))
    if is_likely_inverted(pixels):
        warnings.append(acceptance.make_warning(WarningCode.LOOKS_INVERTED))
    return Radiograph(
        pixels=pixels,
        facts=ImageFacts(
            rows=rows,
            columns=columns,
            format=kind,
            bits_stored=declared.bits,
            view="",
            laterality="",
            body_part="",
            manufacturer="",
            photometric=declared.photometric,
            transfer_syntax="",
            spacing=None,
        ),
        warnings=tuple(warnings),
    )
