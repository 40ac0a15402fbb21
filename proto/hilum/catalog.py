"""The 14 findings of VinDr-CXR: index, name and coded concept.

Order and names are the dataset's own (Nguyen et al., "VinDr-CXR: An open dataset of chest
X-rays with radiologist's annotations", Scientific Data 2022, class ids 0-13). A bundle
declares which of them its model has; results carry the index of this catalogue.

Concepts are DICOM coded entries (PS3.3 section 8). Where neither SNOMED CT nor DICOM has a
concept for what the dataset's readers marked, the code is local (scheme `99HILUM`) instead of
a similar one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Concept:
    """A DICOM coded entry: value, scheme designator and meaning (PS3.3 Table 8.8-1)."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True)
class CatalogFinding:
    """A kind of abnormality.

    `slug` is the stable identifier for JSON, metrics and file names; `name` is the dataset's label.
    `site` is the anatomic site, where the finding's own concept does not imply it.
    """

    index: int
    name: str
    slug: str
    concept: Concept
    site: Concept | None = None


def _sct(value: str, meaning: str) -> Concept:
    return Concept(value, "SCT", meaning)


def _dcm(value: str, meaning: str) -> Concept:
    return Concept(value, "DCM", meaning)


def _local(value: str, meaning: str) -> Concept:
    return Concept(value, "99HILUM", meaning)


CATALOG: Final[tuple[CatalogFinding, ...]] = (
    CatalogFinding(
        0,
        "Aortic enlargement",
        "aortic_enlargement",
        _local("AORTIC_ENLARGEMENT", "Aortic enlargement"),
        _sct("15825003", "Aorta"),
    ),
    CatalogFinding(1, "Atelectasis", "atelectasis", _sct("46621007", "Atelectasis")),
    CatalogFinding(2, "Calcification", "calcification", _dcm("112063", "Abnormal calcifications")),
    CatalogFinding(3, "Cardiomegaly", "cardiomegaly", _sct("8186001", "Cardiomegaly")),
    CatalogFinding(4, "Consolidation", "consolidation", _sct("95436008", "Lung consolidation")),
    CatalogFinding(5, "ILD", "ild", _dcm("112004", "Abnormal interstitial pattern")),
    CatalogFinding(6, "Infiltration", "infiltration", _dcm("112121", "Infiltrate")),
    CatalogFinding(7, "Lung Opacity", "lung_opacity", _dcm("112001", "Opacity")),
    CatalogFinding(8, "Nodule/Mass", "nodule_mass", _local("NODULE_MASS", "Nodule or mass")),
    CatalogFinding(9, "Other lesion", "other_lesion", _local("OTHER_LESION", "Other lesion")),
    CatalogFinding(
        10, "Pleural effusion", "pleural_effusion", _sct("60046008", "Pleural effusion")
    ),
    CatalogFinding(
        11,
        "Pleural thickening",
        "pleural_thickening",
        _local("PLEURAL_THICKENING", "Pleural thickening"),
        _sct("3120008", "Pleura"),
    ),
    CatalogFinding(12, "Pneumothorax", "pneumothorax", _sct("36118008", "Pneumothorax")),
    CatalogFinding(
        13, "Pulmonary fibrosis", "pulmonary_fibrosis", _sct("51615001", "Pulmonary fibrosis")
    ),
)

BY_NAME: Final[dict[str, CatalogFinding]] = {finding.name: finding for finding in CATALOG}
BY_SLUG: Final[dict[str, CatalogFinding]] = {finding.slug: finding for finding in CATALOG}
