"""The study context: identifiers of patient and study, which must not leave the site.

Only the modules that an import rule names may import this one (pyproject.toml).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True)
class StudyContext:
    """Identifiers of patient and study, for reports and routing, never for telemetry.

    A field is an empty string or None where the header does not declare it.
    """

    patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: date | None = None
    patient_sex: str = ""
    patient_age: str = ""
    accession_number: str = ""
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    sop_instance_uid: str = ""
    sop_class_uid: str = ""
    study_date: date | None = None
    study_time: str = ""
    study_id: str = ""
    referring_physician: str = ""
    institution: str = ""

    def __repr__(self) -> str:
        # A context that is logged by mistake must not reveal the patient.
        return "StudyContext(<withheld>)"
