"""A synthetic data set as a hospital would provide it: DICOM studies and a table of readers' boxes.

DIR/studies/<patient>/<study>/<image_id>.dicom   one radiograph each
DIR/annotations.csv                              VinDr-CXR's columns, three simulated readers

Patients have one to three studies, a sex, an age and a machine. Images are MONOCHROME1 or
MONOCHROME2, uncompressed or run-length encoded. `hilum-train data vindr` imports the data set.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from hashlib import md5
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from hilum.catalog import CATALOG
from training.data.atomic_files import explain_write_errors, replace_file, replace_files
from training.data.dataset import ANNOTATIONS, NO_FINDING, refuse_existing_dataset
from training.data.labels import Label
from training.errors import TrainingError
from training.synthetic import simulated_readers
from training.synthetic.generator import SIZE, Generator

TABLE: Final = ANNOTATIONS
_MACHINES: Final = ("Ansel Imaging", "Baryta", "Collodion Medical")
_BITS: Final = 12


@dataclass(frozen=True, slots=True)
class Study:
    """The header facts of one radiograph to be painted from `seed`."""

    seed: int
    image_id: str
    patient: str
    number: int
    sex: str
    age: int
    view: str
    machine: str
    photometric: str
    compressed: bool

    @property
    def path(self) -> Path:
        """The file's path in the data set."""
        return Path("studies", self.patient, f"study-{self.number}", f"{self.image_id}.dicom")


def plan_studies(seeds: range) -> list[Study]:
    """Plan patients and their studies, one radiograph per seed; the first seed decides all."""
    rng = np.random.default_rng([2, seeds.start])
    studies: list[Study] = []
    while len(studies) < len(seeds):
        patient = f"S{seeds.start:04d}-{len(studies):05d}"
        sex, age = str(rng.choice(["F", "M"])), int(rng.integers(18, 91))
        machine = str(rng.choice(_MACHINES, p=[0.5, 0.3, 0.2]))
        for number in range(1, 1 + int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))):
            if len(studies) == len(seeds):
                break
            seed = seeds[len(studies)]
            studies.append(
                Study(
                    seed=seed,
                    image_id=md5(f"hilum {seed}".encode(), usedforsecurity=False).hexdigest(),
                    patient=patient,
                    number=number,
                    sex=sex,
                    age=age + number - 1,
                    view="AP" if rng.random() < 0.15 else "PA",
                    machine=machine,
                    photometric="MONOCHROME1" if rng.random() < 0.3 else "MONOCHROME2",
                    compressed=bool(rng.random() < 0.3),
                )
            )
    return studies


def write_studies(
    generator: Generator, folder: Path, seeds: range, *, workers: int = 2
) -> Iterator[tuple[Study, tuple[Label, ...]]]:
    """Paint and store one radiograph per seed.

    The table is written last, so a folder without it is an unfinished data set.

    Args:
        generator: makes the radiographs; must not have real backgrounds.
        folder: where the data set is written.
        seeds: one per radiograph.
        workers: number of processes.

    Yields:
        Each study with its labels, in order.

    Raises:
        TrainingError: the generator has real backgrounds, which show unlabelled findings, and the
            table has no column to declare them; the folder holds a data set already; or the disk
            cannot be written.
    """
    if generator.backgrounds:
        raise TrainingError(
            "studies are painted without real backgrounds",
            hint="A table in VinDr-CXR's layout cannot declare unlabelled findings of real images.",
        )
    refuse_existing_dataset(folder)
    studies = plan_studies(seeds)
    rows: list[list[object]] = []
    # Spawned, not forked: OpenCV's own threads do not survive a fork.
    with ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),
        initializer=_initialise_worker,
        initargs=(generator, folder),
    ) as pool:
        for study, labels in zip(
            studies, pool.map(_paint_and_store, studies, chunksize=4), strict=True
        ):
            rows += _simulate_readings(study, labels, SIZE)
            yield study, labels
    with (
        replace_files(folder) as place,
        place(TABLE).open("w", newline="", encoding="utf-8") as out,
    ):
        table = csv.writer(out)
        table.writerow(
            ["image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max"]
        )
        table.writerows(rows)


def _simulate_readings(study: Study, labels: tuple[Label, ...], side: int) -> list[list[object]]:
    rng = np.random.default_rng([3, study.seed])
    rows: list[list[object]] = []
    for reader in simulated_readers.choose_readers(rng):
        drawn = simulated_readers.simulate_reading(labels, side, rng)
        for label in drawn:
            box = (label.x_min, label.y_min, label.x_max, label.y_max)
            name = CATALOG[label.index].name
            rows.append([study.image_id, name, label.index, reader, *map(int, box)])
        if not drawn:
            rows.append([study.image_id, NO_FINDING, len(CATALOG), reader, "", "", "", ""])
    return rows


_worker_arguments: tuple[Generator, Path] | None = None


def _initialise_worker(generator: Generator, folder: Path) -> None:
    global _worker_arguments  # noqa: PLW0603 - a worker process keeps its arguments
    _worker_arguments = generator, folder
    cv2.setNumThreads(1)


def _paint_and_store(study: Study) -> tuple[Label, ...]:
    assert _worker_arguments is not None  # noqa: S101 - the pool's initializer has set it
    generator, folder = _worker_arguments
    sample = generator.sample(study.seed)
    file = BytesIO()
    build_dataset(sample.pixels, study).save_as(file, enforce_file_format=True)
    path = folder / study.path
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, file.getvalue())
    return sample.labels


def build_dataset(pixels: NDArray[np.uint8], study: Study) -> FileDataset:
    """Build a radiograph for presentation: 12 bits stored, with a window over their full range.

    Args:
        pixels: u8 (H, W), bone bright.
        study: the header facts.

    Returns:
        The DICOM data set.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["image", study.image_id])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    ds.StudyInstanceUID = generate_uid(entropy_srcs=["study", study.image_id])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=["series", study.image_id])
    ds.StudyDate, ds.StudyTime = f"20{10 + study.number:02d}0704", "120000"
    ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = str(study.number), 1, 1
    ds.PatientID, ds.PatientName = study.patient, f"Synthetic^{study.patient}"
    ds.PatientSex, ds.PatientAge = study.sex, f"{study.age:03d}Y"
    ds.Modality, ds.Manufacturer, ds.BodyPartExamined = "DX", study.machine, "CHEST"
    ds.ViewPosition, ds.PresentationIntentType = study.view, "FOR PRESENTATION"
    ds.BurnedInAnnotation = "NO"
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, _BITS, _BITS - 1
    ds.PhotometricInterpretation = study.photometric
    ds.WindowCenter, ds.WindowWidth = 1 << (_BITS - 1), 1 << _BITS
    stored = pixels.astype(np.uint16) << (_BITS - 8)
    if study.photometric == "MONOCHROME1":
        stored = (1 << _BITS) - 1 - stored
    ds.PixelData = stored.tobytes()
    if study.compressed:
        ds.compress(RLELossless, generate_instance_uid=False)
    return ds
