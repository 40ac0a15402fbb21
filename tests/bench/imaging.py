"""From bytes to the model's input on one core, compared with pydicom, `apply_voi_lut` and resize.

Each round runs every contestant once, so that a busy machine is busy for all of them.
"""

from __future__ import annotations

import io
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from edge_agent.core.geometry import Letterbox
from edge_agent.imaging import read_study
from edge_agent.imaging.letterbox import apply_letterbox
from tests.conftest import pydicom_file

SIDE = 640
ROUNDS = 25
WARM_UP = 3


@dataclass(frozen=True)
class Row:
    """One line of the table: what is read, by us, and by what it is compared with."""

    name: str
    hilum: Callable[[], object]
    other: Callable[[], object]
    against: str


def run() -> None:
    """Print the table."""
    affinity = os.sched_getaffinity(0)
    threads = cv2.getNumThreads()
    os.sched_setaffinity(0, {min(affinity)})
    cv2.setNumThreads(1)
    try:
        _print_table(measure(rows()))
    finally:
        os.sched_setaffinity(0, affinity)
        cv2.setNumThreads(threads)


def _print_table(measured: dict[str, tuple[Row, float, float]]) -> None:
    print(f"Bytes to an input of {SIDE} x {SIDE}, one core, medians of {ROUNDS} interleaved rounds")
    print("| study image | Hilum, ms | compared with | ms | ratio |\n|---|---|---|---|---|")
    for row, hilum, other in measured.values():
        print(f"| {row.name} | {hilum:.1f} | {row.against} | {other:.1f} | {hilum / other:.2f} |")


def measure(table: list[Row]) -> dict[str, tuple[Row, float, float]]:
    """Median milliseconds of each row's two contestants, by the row's name."""
    hilum: dict[str, list[float]] = {row.name: [] for row in table}
    other: dict[str, list[float]] = {row.name: [] for row in table}
    for _ in range(WARM_UP + ROUNDS):
        for row in table:
            hilum[row.name].append(_milliseconds(row.hilum))
            other[row.name].append(_milliseconds(row.other))
    median = statistics.median
    return {
        row.name: (row, median(hilum[row.name][WARM_UP:]), median(other[row.name][WARM_UP:]))
        for row in table
    }


def _milliseconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1e3


def rows() -> list[Row]:
    """What is measured."""
    plain = pydicom_file("RG1_UNCI.dcm").read_bytes()
    wavelet = pydicom_file("RG1_J2KR.dcm").read_bytes()
    frame = next(
        generate_frames(pydicom.dcmread(io.BytesIO(wavelet)).PixelData, number_of_frames=1)
    )
    stored = pydicom.dcmread(io.BytesIO(plain)).pixel_array
    jpeg = raster(full_size(plain), "JPEG", quality=92)
    png = raster(stored, "PNG")
    usual = "pydicom, apply_voi_lut, resize"
    decoder = "the bare decoder, full size"
    return [
        Row("RG1, uncompressed", lambda: hilum(plain), lambda: pydicom_way(plain), usual),
        Row("RG1, JPEG 2000 lossless", lambda: hilum(wavelet), lambda: pydicom_way(wavelet), usual),
        Row(
            "RG1, JPEG 2000 lossless, to input",
            lambda: hilum(wavelet),
            lambda: imagecodecs.jpeg2k_decode(frame, numthreads=2),
            decoder,
        ),
        Row(
            "RG1, JPEG 2000 lossless, at full size",
            lambda: full_size(wavelet),
            lambda: imagecodecs.jpeg2k_decode(frame, numthreads=2),
            decoder,
        ),
        Row("RG1 as JPEG", lambda: hilum(jpeg), lambda: by_opencv(jpeg), "OpenCV, resize"),
        Row("RG1 as PNG of 16 bits", lambda: hilum(png), lambda: by_opencv(png), "OpenCV, resize"),
    ]


def hilum(data: bytes) -> NDArray[np.uint8]:
    """Hilum's way to the model's input."""
    radiograph, _ = read_study(data, fit=(SIDE, SIDE))
    return apply_letterbox(
        radiograph.pixels,
        Letterbox.fit(radiograph.facts.rows, radiograph.facts.columns, SIDE, SIDE),
    )


def full_size(data: bytes) -> NDArray[np.uint8]:
    """Hilum's way to the picture at full resolution."""
    return read_study(data)[0].pixels


def pydicom_way(data: bytes) -> NDArray[np.uint8]:
    """As tutorials have it."""
    ds = pydicom.dcmread(io.BytesIO(data))
    shown = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds)
    low, high = shown.min(), shown.max()
    grey = ((shown - low) / (high - low) * 255).astype(np.uint8)
    if ds.PhotometricInterpretation == "MONOCHROME1":
        grey = 255 - grey
    return apply_letterbox(grey, Letterbox.fit(*grey.shape, SIDE, SIDE))


def by_opencv(data: bytes) -> NDArray[np.uint8]:
    """Decode at full size, scale to 8 bits by the extremes, resize."""
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture.dtype != np.uint8:
        picture = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U)
    return apply_letterbox(picture, Letterbox.fit(*picture.shape, SIDE, SIDE))


def raster(pixels: NDArray[np.generic], kind: str, **options: object) -> bytes:
    """A raster file of these pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


if __name__ == "__main__":
    run()
