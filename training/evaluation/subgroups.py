"""Which images share a fact: sex, age band, view, manufacturer, photometric interpretation."""

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
    """Images that share a fact; `members` bool (images,)."""

    fact: str
    value: str
    members: NDArray[np.bool_]


def groups(entries: Sequence[LabelledImage]) -> Iterator[Group]:
    """Every value of every fact that the set tells, of facts that part it at all."""
    for fact in FACTS:
        values = [_value(fact, entry.facts.get(fact, "")) for entry in entries]
        known = sorted({value for value in values if value})
        if len(known) > 1 or (known and "" in values):
            for value in known:
                yield Group(fact, value, np.array([v == value for v in values], bool))


def _value(fact: str, said: str) -> str:
    said = said.strip()
    if fact != "age":
        return said
    years = _years(said)
    for low, high in AGE_BANDS:
        if years is not None and years >= low and (high is None or years <= high):
            return f"{low}-{high}" if high is not None else f"{low} and over"
    return ""


def _years(said: str) -> int | None:
    """Whole years of `63`, `63.0` or DICOM's `063Y`; months, weeks and days are less than one."""
    matched = re.fullmatch(r"(\d{1,3})(?:\.\d*)?([YMWD]?)", said.upper())
    if not matched:
        return None
    return int(matched[1]) // {"Y": 1, "": 1, "M": 12, "W": 52, "D": 365}[matched[2]]
