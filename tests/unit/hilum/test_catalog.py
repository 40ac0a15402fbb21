"""The catalogue: the dataset's findings in its order, each with a valid coded concept."""

from __future__ import annotations

import re

import pytest

from hilum.catalog import BY_NAME, BY_SLUG, CATALOG, CatalogFinding

# Nguyen et al., Scientific Data 2022: the class ids of the dataset's train.csv.
VINDR_ORDER = [
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Other lesion",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
]


def test_names_are_in_the_datasets_order() -> None:
    assert [finding.name for finding in CATALOG] == VINDR_ORDER
    assert [finding.index for finding in CATALOG] == list(range(14))


def test_every_finding_is_found_by_name_and_slug() -> None:
    for finding in CATALOG:
        assert BY_NAME[finding.name] is finding
        assert BY_SLUG[finding.slug] is finding
    assert len(BY_NAME) == len(BY_SLUG) == 14


@pytest.mark.parametrize("finding", CATALOG, ids=lambda finding: finding.slug)
def test_slug_is_the_name_in_snake_case(finding: CatalogFinding) -> None:
    assert finding.slug == re.sub(r"[^a-z]+", "_", finding.name.lower())


@pytest.mark.parametrize("finding", CATALOG, ids=lambda finding: finding.slug)
def test_concept_is_a_valid_coded_entry(finding: CatalogFinding) -> None:
    for concept in filter(None, (finding.concept, finding.site)):
        # DICOM PS3.5 section 6.2: SH is at most 16 characters, LO at most 64; a longer code value
        # goes into Long Code Value, which only codes of 99HILUM need.
        assert concept.scheme in {"SCT", "DCM", "99HILUM"}
        assert len(concept.scheme) <= 16
        assert 0 < len(concept.meaning) <= 64
        if concept.scheme == "DCM":
            assert re.fullmatch(r"\d{6}", concept.value)
        if concept.scheme == "SCT":
            assert _has_valid_check_digit(concept.value)


def test_no_two_findings_share_a_concept() -> None:
    concepts = {(finding.concept.scheme, finding.concept.value) for finding in CATALOG}
    assert len(concepts) == len(CATALOG)


def _has_valid_check_digit(identifier: str) -> bool:
    """Return whether the Verhoeff check digit of a SNOMED CT identifier is right.

    See SNOMED CT Release File Specification 5.5.
    """
    multiply = [
        [(i + j) % 5 if j < 5 else (i + j) % 5 + 5 for j in range(10)]
        if i < 5
        else [5 + (i - j) % 5 if j < 5 else (i - j) % 5 for j in range(10)]
        for i in range(10)
    ]
    first = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]
    powers = [list(range(10))]
    for _ in range(7):
        powers.append([first[value] for value in powers[-1]])
    check = 0
    for position, digit in enumerate(reversed(identifier)):
        check = multiply[check][powers[position % 8][int(digit)]]
    return check == 0
