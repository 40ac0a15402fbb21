"""Labelled images without pixels, and what was found on them: figures by hand and by chance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edge_agent.core.findings import Box, Finding
from hilum.catalog import BY_SLUG, CATALOG
from training.data.dataset import LabelledImage
from training.data.labels import Label

NODULE = BY_SLUG["nodule_mass"].index
OPACITY = BY_SLUG["lung_opacity"].index

ITSELF = np.ones((1, 2))
"""The counts of a set of two images."""


def entry(
    *labels: Label,
    image_id: str = "a",
    unknown: frozenset[int] = frozenset(),
    patient: str = "",
    facts: Mapping[str, str] | None = None,
) -> LabelledImage:
    """An image whose file does not exist."""
    return LabelledImage(
        image_id=image_id,
        path=Path(f"{image_id}.png"),
        background="painted",
        unknown=unknown,
        labels=labels,
        patient=patient,
        facts=facts or {},
    )


def finding(x: float, score: float, index: int = NODULE) -> Finding:
    """Ten pixels square, `x` to the right."""
    return Finding(index, score, Box(x, 0, x + 10, 10))


TWO = [
    entry(Label(NODULE, 0, 0, 10, 10), Label(NODULE, 100, 0, 110, 10), image_id="a"),
    entry(image_id="b"),
]
"""Two nodules in one image, none in the other."""


def by_chance(
    images: int, seed: int = 0, *, per_image: int = 12, hidden: float = 0.05
) -> tuple[list[LabelledImage], list[list[Finding]]]:
    """A set with boxes of all classes, and a detector that finds most of them, and more."""
    rng = np.random.default_rng(seed)
    entries, found = [], []
    for k in range(images):
        labels, findings = [], []
        for _ in range(rng.poisson(1.5)):
            x, y = rng.uniform(0, 400, 2)
            width, height = rng.uniform(20, 100, 2)
            label = Label(int(rng.integers(len(CATALOG))), x, y, x + width, y + height)
            labels.append(label)
            if rng.random() < 0.8:
                shift = rng.normal(0, 6, 4)
                findings.append(
                    Finding(
                        label.index,
                        float(rng.beta(4, 2)),
                        Box(
                            x + shift[0], y + shift[1], x + width + shift[2], y + height + shift[3]
                        ),
                    )
                )
        for _ in range(rng.poisson(per_image)):
            x, y = rng.uniform(0, 400, 2)
            side = rng.uniform(20, 100)
            score = float(np.round(rng.beta(1, 5), 3)) + 1e-3
            index = int(rng.integers(len(CATALOG)))
            findings.append(Finding(index, min(score, 1.0), Box(x, y, x + side, y + side)))
        unknown = frozenset(int(c) for c in np.flatnonzero(rng.random(len(CATALOG)) < hidden))
        facts = {"sex": "F" if rng.random() < 0.5 else "M", "age": str(int(rng.integers(18, 90)))}
        entries.append(entry(*labels, image_id=f"{k:05d}", unknown=unknown, facts=facts))
        found.append(findings)
    return entries, found
