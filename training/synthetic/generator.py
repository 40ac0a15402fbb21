"""The generator of synthetic radiographs: a chest, findings, a film.

Findings are placed where radiologists' boxes are. `Generator.sample(seed)` is a pure function of
its settings and the seed, so any number of processes make the same data set. On a real radiograph
only the findings are synthetic. What else it shows is unknown, so the sample names the classes
whose absence must not be learnt from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hilum.catalog import BY_SLUG, CATALOG
from training.data.labels import Label
from training.synthetic import devices, film, lesions_lung, lesions_pleura, mediastinum, phantom
from training.synthetic.backgrounds import Background
from training.synthetic.box_statistics import BoxStatistics
from training.synthetic.chest import Chest
from training.synthetic.lungs import ShapeModel
from training.synthetic.primitives import Floats

SIZE: Final = 512

TargetBox = tuple[float, float, float, float]
Painter = Callable[[Chest, TargetBox, np.random.Generator], Floats]


def _index(slug: str) -> int:
    return BY_SLUG[slug].index


AORTA, HEART = _index("aortic_enlargement"), _index("cardiomegaly")
NODULE, PNEUMOTHORAX = _index("nodule_mass"), _index("pneumothorax")
EFFUSION = _index("pleural_effusion")

PAINTERS: Final[dict[int, Painter]] = {
    _index("atelectasis"): lesions_lung.paint_atelectasis,
    _index("calcification"): lesions_lung.paint_calcification,
    _index("consolidation"): partial(
        lesions_lung.paint_opacity,
        strength=(0.55, 0.95),
        patchy=(0.1, 0.35),
        hardness=(4, 9),
        bronchograms=0.6,
    ),
    _index("ild"): lesions_lung.paint_reticulation,
    _index("infiltration"): partial(
        lesions_lung.paint_opacity, strength=(0.25, 0.6), patchy=(0.5, 0.9), hardness=(3, 7)
    ),
    _index("lung_opacity"): partial(
        lesions_lung.paint_opacity, strength=(0.2, 0.55), patchy=(0.1, 0.4), hardness=(2, 5)
    ),
    NODULE: lesions_lung.paint_nodule,
    _index("other_lesion"): lesions_lung.paint_other_lesion,
    EFFUSION: lesions_pleura.paint_effusion,
    _index("pleural_thickening"): lesions_pleura.paint_thickening,
    _index("pulmonary_fibrosis"): lesions_lung.paint_fibrosis,
}

# The most findings of one class on an image, and the classes that are placed outside of air too.
_MOST: Final = {NODULE: 6, _index("calcification"): 3, _index("pulmonary_fibrosis"): 3}
_ANYWHERE: Final = {_index("calcification"), EFFUSION, _index("pleural_thickening")}


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One synthetic radiograph, u8 (SIZE, SIZE), with its labels.

    `unknown` are the classes that the background may show without a label; their absence must not
    be learnt.
    """

    pixels: NDArray[np.uint8]
    labels: tuple[Label, ...]
    background: str
    unknown: frozenset[int]


@dataclass(frozen=True, slots=True, eq=False)
class Generator:
    """The generator. It uses real backgrounds with probability `real_share`.

    `clear_share` is the probability of a sample without findings.
    """

    shapes: ShapeModel
    statistics: BoxStatistics
    backgrounds: tuple[Background, ...] = ()
    real_share: float = 0.45
    clear_share: float = 0.15

    def sample(self, seed: int) -> Sample:
        """Generate the sample of a seed."""
        rng = np.random.default_rng([20_26, seed])
        real = bool(self.backgrounds) and rng.random() < self.real_share
        classes = self._choose_classes(rng, real=real)
        targets = {index: self.statistics.sample(index, rng) for index in (HEART, AORTA)}
        ratio = lesions_pleura.choose_heart_ratio(targets[HEART], 1.0) if HEART in classes else None
        reach = lesions_pleura.choose_knob_reach(targets[AORTA], 1.0) if AORTA in classes else None
        unknown: frozenset[int] = frozenset()
        name = "painted"
        if real:
            background = self.backgrounds[int(rng.integers(len(self.backgrounds)))]
            chest = background.to_chest(SIZE, rng)
            unknown, name = background.unknown, background.name
            if ratio:
                mediastinum.paint_heart(chest, ratio, rng)
            if reach:
                mediastinum.paint_aortic_knob(chest, reach, rng)
        else:
            chest = phantom.paint_chest(SIZE, self.shapes, rng, heart_ratio=ratio, knob_reach=reach)
        labels = []
        for index, box in ((HEART, chest.heart), (AORTA, chest.knob)):
            if index in classes:
                labels += _make_labels(index, box)
        devices.add_devices(chest, rng, busy=0.5 if real else 1.0)
        for index in sorted(classes - {HEART, AORTA}, key=_painting_order):
            for _ in range(_choose_count(index, rng)):
                labels += self._place(chest, index, rng)
        grey = film.render_film(chest.pixels, rng, real=real)
        return Sample(pixels=grey, labels=tuple(labels), background=name, unknown=unknown)

    def _choose_classes(self, rng: np.random.Generator, *, real: bool) -> set[int]:
        """Choose the classes to show: rare ones more often than in life, nodules most often."""
        if rng.random() < self.clear_share:
            return set()
        frequency = np.array([c.image_frequency for c in self.statistics.classes])
        weight = frequency**0.4
        weight[NODULE] *= 3
        if real:  # Rare, because paint over a real heart or aorta is visible.
            weight[[HEART, AORTA]] *= 0.5
        first = int(rng.choice(len(CATALOG), p=weight / weight.sum()))
        classes = {first}
        while len(classes) < 4 and rng.random() < 0.45:
            near = self.statistics.together[first] * weight + 0.02
            near[list(classes)] = 0
            classes.add(int(rng.choice(len(CATALOG), p=near / near.sum())))
        return classes

    def _place(self, chest: Chest, index: int, rng: np.random.Generator) -> list[Label]:
        for _ in range(6):
            target = self._sample_target(chest, index, rng)
            x, y = round(target[0]), round(target[1])
            if not (4 <= x < SIZE - 4 and 4 <= y < SIZE - 4):
                continue
            if index not in _ANYWHERE | {PNEUMOTHORAX} and chest.air[y, x] < 0.3:
                continue
            if index == PNEUMOTHORAX:
                found = lesions_pleura.paint_pneumothorax(chest, target, rng)
                return _make_labels(index, found) if found else []
            before = chest.pixels.copy()
            chest.add(PAINTERS[index](chest, target, rng))
            if labels := _label_change(index, chest.pixels - before, chest.contrast):
                if index == EFFUSION:  # Lung under fluid holds no air.
                    chest.air = chest.air * (chest.pixels - before < 0.3 * chest.contrast)
                return labels
            chest.pixels = before
        return []

    def _sample_target(self, chest: Chest, index: int, rng: np.random.Generator) -> TargetBox:
        x, y, width, height = chest.frame.to_pixels(self.statistics.sample(index, rng))
        if index == NODULE and rng.random() < 0.5:
            # The table has few large masses, so half of them are drawn from 8 to 75 mm evenly.
            width = height = chest.frame.px_per_mm * 8 * (75 / 8) ** rng.random()
        if index not in _ANYWHERE and rng.random() < 0.3:
            x_min, y_min, x_max, y_max = chest.lungs.extent
            x, y = rng.uniform(x_min, x_max), rng.uniform(y_min, y_max)
        return x, y, width, height


def _painting_order(index: int) -> int:
    return {PNEUMOTHORAX: 0, EFFUSION: 1}.get(index, 2 + index)


def _choose_count(index: int, rng: np.random.Generator) -> int:
    if index == PNEUMOTHORAX:
        return 1
    return min(_MOST.get(index, 2), int(rng.geometric(0.5)))


def _make_labels(index: int, box: tuple[float, float, float, float]) -> list[Label]:
    x_min, y_min = max(0.0, box[0]), max(0.0, box[1])
    x_max, y_max = min(float(SIZE), box[2]), min(float(SIZE), box[3])
    if x_max - x_min < 4 or y_max - y_min < 4:
        return []
    return [Label(index, x_min, y_min, x_max, y_max)]


def _label_change(index: int, change: Floats, contrast: float) -> list[Label]:
    """Return a label with the box of the visible change, none if the change is invisible."""
    peak = float(change.max())
    if peak < (0.17 if index == NODULE else 0.1) * contrast:
        return []
    visible = change > max(0.22 * min(peak, 0.6 * contrast), 0.035 * contrast)
    if index == NODULE:
        visible = change > 0.2 * peak
    xs, ys = np.flatnonzero(visible.any(axis=0)), np.flatnonzero(visible.any(axis=1))
    return _make_labels(index, (float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1)))
