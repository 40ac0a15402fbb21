"""Study image bytes to a radiograph and, apart from it, its study context."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pydicom
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from edge_agent.core.geometry import Letterbox
from edge_agent.core.radiograph import Radiograph
from edge_agent.core.study_context import StudyContext
from edge_agent.errors import StudyImageRefused
from edge_agent.imaging.limits import Limits


def read_study(
    data: bytes | memoryview, *, limits: Limits = Limits(), fit: tuple[int, int] | None = None
) -> tuple[Radiograph, StudyContext]:
    data = bytes(data)
    view = ""
    kind = "dicom"
    if data[128:132] == b"DICM":
        try:
            dataset = pydicom.dcmread(io.BytesIO(data))
            stored = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
        except Exception:
            raise StudyImageRefused("bad") from None
        lo, hi = stored.min(), stored.max()
        pixels = np.clip((stored - lo) / max(hi - lo, 1) * 255, 0, 255).astype(np.uint8)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            pixels = 255 - pixels
        view = str(dataset.get("ViewPosition", ""))
    else:
        kind = "png" if data[:4] == b"\x89PNG" else "jpeg"
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) if data else None
        if pixels is None:
            raise StudyImageRefused("This file is no image.")
    rows, columns = pixels.shape
    if fit:
        box = Letterbox.fit(rows, columns, *fit)
        pixels = cv2.resize(
            pixels, (box.inner_width, box.inner_height), interpolation=cv2.INTER_AREA
        )
    return Radiograph(pixels, rows, columns, kind, 8, view=view), StudyContext()
