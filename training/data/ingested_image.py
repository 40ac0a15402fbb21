"""Ingestion of one study image: read as the edge agent reads it, checked, stored as grey PNG.

This module is the only one of training that sees the study context. It keeps a pseudonym of the
patient, the sex and the age in years, and nothing else of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import cv2

from edge_agent.core.study_context import StudyContext
from edge_agent.errors import StudyImageRefused
from edge_agent.imaging import read_study
from training.data import atomic_files, image_checks


@dataclass(frozen=True, slots=True)
class IngestTask:
    """One file to ingest.

    `fit` is the side in pixels of the square model input that the image is stored for; None keeps
    the image's full size.
    """

    image_id: str
    source: Path
    target: Path
    fit: int | None


@dataclass(frozen=True, slots=True)
class IngestedImage:
    """One stored image, or the reason `why` there is none; all other facts are empty then.

    `rows` and `columns` are those of the stored image, `original_rows` and `original_columns` those
    of the file. `stamp` identifies the file and the size (`compute_stamp`). `patient_id` is a
    pseudonym. `age` is in whole years.
    """

    image_id: str
    source: str
    stamp: str
    why: str = ""
    rows: int = 0
    columns: int = 0
    original_rows: int = 0
    original_columns: int = 0
    patient_id: str = ""
    sex: str = ""
    age: str = ""
    view: str = ""
    manufacturer: str = ""
    photometric: str = ""
    flags: str = ""
    fingerprint: str = ""
    size_bytes: int = 0


def ingest_image(task: IngestTask) -> IngestedImage:
    """Read, check and store one file.

    Returns:
        The stored image's facts. A file that cannot be used gives a reason instead of an error.

    Raises:
        TrainingError: the image cannot be stored.
    """
    stamp = compute_stamp(task)  # Before the read: a file that changes meanwhile is noticed later.
    try:
        data = task.source.read_bytes()
        fit = None if task.fit is None else (task.fit, task.fit)
        radiograph, context = read_study(data, fit=fit)
        facts = radiograph.facts
        if radiograph.pixels.size > facts.rows * facts.columns:
            # The original is smaller than the model input. Its own size is kept, because enlarging
            # adds bytes and no information.
            radiograph, context = read_study(data)
            facts = radiograph.facts
    except StudyImageRefused as refusal:
        return reject(task, refusal.message)
    except OSError as error:
        return reject(task, f"the file cannot be read: {error.strerror}")
    flags = image_checks.find_flags(radiograph.pixels, facts.rows, facts.columns)
    if "constant" in flags:
        return reject(task, image_checks.FLAGS["constant"])
    encoded = cv2.imencode(".png", radiograph.pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
    atomic_files.replace_file(task.target, encoded.tobytes())
    return IngestedImage(
        image_id=task.image_id,
        source=task.source.name,
        stamp=stamp,
        rows=radiograph.pixels.shape[0],
        columns=radiograph.pixels.shape[1],
        original_rows=facts.rows,
        original_columns=facts.columns,
        patient_id=make_pseudonym(context.patient_id),
        sex=context.patient_sex if context.patient_sex in {"F", "M", "O"} else "",
        age=age_in_years(context),
        view=facts.view,
        manufacturer=facts.manufacturer,
        photometric=facts.photometric,
        flags=" ".join(flags),
        fingerprint=image_checks.compute_fingerprint(radiograph.pixels),
        size_bytes=encoded.size,
    )


def reject(task: IngestTask, why: str) -> IngestedImage:
    """Return the entry of a file that cannot be used, with the reason `why`."""
    return IngestedImage(task.image_id, task.source.name, compute_stamp(task), why=why)


def compute_stamp(task: IngestTask) -> str:
    """Return what the stored image depends on: the file's size and time, and the stored size.

    Another file or another size has another stamp.
    """
    try:
        stat = task.source.stat()
    except OSError:
        return "unreadable"
    return f"{stat.st_size}:{stat.st_mtime_ns}:{task.fit}"


def make_pseudonym(patient_id: str) -> str:
    """Return a name that only tells patients apart, "" if the id is unknown.

    This is no anonymisation: a person who knows the ids can compute the names.
    """
    return f"p-{sha256(patient_id.encode()).hexdigest()[:12]}" if patient_id else ""


def age_in_years(context: StudyContext) -> str:
    """Return the age in whole years from the header's `045Y` or `009M`, "" if it is unknown."""
    digits, unit = context.patient_age[:-1], context.patient_age[-1:]
    per_year = {"Y": 1, "M": 12, "W": 52, "D": 365}.get(unit)
    if per_year is None or not digits.isascii() or not digits.isdigit():
        return ""
    return str(int(digits) // per_year)
