"""What only the site may know.

Modules that measure, log or answer may not import this one (a lint rule says so).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True)
class StudyContext:
    """What only the site may know; for reports and routing, never for telemetry.

    Empty strings and None mean: the header did not say.
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
        # A context that slips into a log line must not take the patient with it.
        return "StudyContext(<withheld>)"
