"""Small data sets as a hospital would provide them, and the real annotation table."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from training.synthetic import box_statistics, dicom_studies, lungs
from training.synthetic.generator import Generator

HEADER = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n"


def real_table() -> Path:
    """Return the path of VinDr-CXR's training annotations in torchxrayvision, not imported."""
    spec = find_spec("torchxrayvision")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data" / "vinbigdata-train.csv.gz"


def make_studies(folder: Path, count: int, *, first: int = 0) -> Path:
    """Paint DICOM studies and write their annotation table; return `folder`."""
    generator = Generator(lungs.load_shape_model(), box_statistics.load_statistics())
    for _ in dicom_studies.write_studies(generator, folder, range(first, first + count), workers=1):
        pass
    return folder


def table(folder: Path, rows: str, *, header: str = HEADER) -> Path:
    """Write an annotation table with these rows; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "train.csv"
    path.write_text(header + rows, encoding="utf-8")
    return path
