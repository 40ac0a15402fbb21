"""Finds the lungs of a frontal radiograph, so that findings can be painted into them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synthetic.lungs import Lung, Lungs, Mask, ShapeModel, place_shape
from training.synthetic.primitives import Floats

_SIDE: Final = 96
"""Longer side of the image that the search works on."""
_GENES: Final = 12
"""Position, scale and aspect ratio, and the first eight modes of the shape model."""
_PRIOR: Final = 0.004
"""Cost of a squared gene, so that unlikely shapes need evidence."""

Genes = NDArray[np.float64]


def fit_lungs(pixels: Mask, model: ShapeModel, rng: np.random.Generator) -> tuple[Lungs, float]:
    """Find the lungs of a frontal radiograph: the shape that best separates dark from bright.

    An evolutionary search over position, scale and the first modes, on an image of 96 pixels. The
    score is the correlation of the shape with the (locally equalised) darkness. A fit with a score
    below about 0.5 is unreliable.

    Args:
        pixels: u8 of shape (H, W), bone bright.
        model: the shapes to try.
        rng: makes the search repeatable.

    Returns:
        The lungs in pixels, and the score.
    """
    scale = _SIDE / max(pixels.shape)
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    target = _Target.of(np.asarray(small, np.uint8), model)
    winner, score = _search(target.score, rng)
    found = target.lungs(winner)
    rescaled = [_rescale(lung, scale) for lung in (found.first, found.second)]
    return Lungs(*rescaled), score + _PRIOR * float((winner**2).sum())


@dataclass(frozen=True, slots=True, eq=False)
class _Target:
    """The image that shapes are compared with.

    Attributes:
        model: the shapes.
        dark: darkness, standardised, f32 (H, W).
        weight: weight of each pixel, largest in the middle, of sum 1, f32 (H, W).
    """

    model: ShapeModel
    dark: Floats
    weight: Floats

    @classmethod
    def of(cls, small: Mask, model: ShapeModel) -> _Target:
        height, width = small.shape
        yy, xx = np.mgrid[0:height, 0:width].astype(np.float32)
        window = np.exp(-(((xx / width - 0.5) / 0.45) ** 4) - ((yy / height - 0.5) / 0.5) ** 6)
        return cls(model, _measure_darkness(small), window / window.sum())

    def lungs(self, genes: Genes) -> Lungs:
        """Return the lungs that some genes stand for."""
        height, width = self.dark.shape
        w = width * (0.68 + 0.09 * genes[2])
        h = w / 1.15 * float(np.exp(0.12 * genes[3]))
        x = width * (0.5 + 0.05 * genes[0]) - w / 2
        y = height * (0.46 + 0.07 * genes[1]) - h / 2
        return place_shape(self.model.vector(genes[4:]), x, y, w, h)

    def score(self, genes: Genes) -> float:
        """Return the weighted correlation of the lungs with the darkness, less the prior's cost."""
        height, width = self.dark.shape
        inside = self.lungs(genes).mask((height, width)).astype(np.float32) / 255
        share = float((self.weight * inside).sum())
        middle = float((self.weight * self.dark).sum())
        covariance = float((self.weight * (inside - share) * (self.dark - middle)).sum())
        spread = share * (1 - share) * float((self.weight * (self.dark - middle) ** 2).sum())
        prior = _PRIOR * float((genes**2).sum())
        return float(covariance / (np.sqrt(spread) + 1e-6) - prior)


def _measure_darkness(small: Mask) -> Floats:
    """Return how dark each pixel is beside its surroundings, with mean 0 and variance 1."""
    dark = 255.0 - cv2.createCLAHE(2.0, (3, 3)).apply(small).astype(np.float32)
    # Air around the body is dark too, so black areas connected to the border count as bright.
    black = (small < np.percentile(small, 2) + 12).astype(np.uint8)
    _, labels = cv2.connectedComponents(black)
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    dark[np.isin(labels, edge[edge > 0])] = dark.min()
    dark = cv2.GaussianBlur(dark, (0, 0), 1.0)
    return np.asarray((dark - dark.mean()) / (dark.std() + 1e-6))


def _search(score: Callable[[Genes], float], rng: np.random.Generator) -> tuple[Genes, float]:
    """Return the genes of the highest score that an evolutionary search finds, and the score."""
    population = rng.normal(0, 1, (120, _GENES))
    population[0] = 0
    spread = 1.0
    for _ in range(14):
        scores = np.array([score(genes) for genes in population])
        best = population[np.argsort(-scores)[:15]]
        spread *= 0.85
        parents = best[rng.integers(0, len(best), (100, _GENES)), np.arange(_GENES)]
        children = parents + rng.normal(0, 1, parents.shape) * best.std(axis=0) * 0.8 * spread
        population = np.concatenate([best, children])
    scores = np.array([score(genes) for genes in population])
    return population[int(scores.argmax())], float(scores.max())


def _rescale(lung: Lung, scale: float) -> Lung:
    return Lung(
        lung.top / scale,
        lung.bottom / scale,
        lung.left / np.float32(scale),
        lung.right / np.float32(scale),
    )
