"""Subgroups of images by sex, age band, view, manufacturer and photometric interpretation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import FACTS, LabelledImage

AGE_BANDS: Final = ((0, 17), (18, 39), (40, 59), (60, 79), (80, None))


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Images that share a value of a fact; `members` is bool (images,)."""

    fact: str
    value: str
    members: NDArray[np.bool_]


def find_groups(entries: Sequence[LabelledImage]) -> Iterator[Group]:
    """Yield a group for each value of each fact by which the images differ."""
    for fact in FACTS:
        values = [_group_value(fact, entry.facts.get(fact, "")) for entry in entries]
        known = sorted({value for value in values if value})
        if len(known) > 1 or (known and "" in values):
            for value in known:
                yield Group(fact, value, np.array([v == value for v in values], bool))


def _group_value(fact: str, text: str) -> str:
    text = text.strip()
    if fact != "age":
        return text
    years = _years(text)
    for low, high in AGE_BANDS:
        if years is not None and years >= low and (high is None or years <= high):
            return f"{low}-{high}" if high is not None else f"{low} and over"
    return ""


def _years(text: str) -> int | None:
    """Return whole years of `63`, `63.0` or DICOM's `063Y`; converts months, weeks and days."""
    matched = re.fullmatch(r"(\d{1,3})(?:\.\d*)?([YMWD]?)", text.upper())
    if not matched:
        return None
    return int(matched[1]) // {"Y": 1, "": 1, "M": 12, "W": 52, "D": 365}[matched[2]]
