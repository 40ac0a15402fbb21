"""Golden cases: does this engine, on this box, still say what was recorded?

A processor without the right instructions, a damaged library or a wrong blob can make an engine
answer quickly and wrongly. A bundle's golden cases are synthetic pictures with the findings that
each variant gave when the bundle was made; they are run before an engine may answer for a patient.
The gate by content looks at them too: each shows a chest, upright, so it must refuse none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from edge_agent.core.content_check import ContentVerdict
from edge_agent.core.findings import Box, Finding, OutputsInvalid, decode_findings, iou
from edge_agent.core.geometry import Letterbox
from edge_agent.engines.base import Engine, Pixels, RawOutputs
from edge_agent.engines.bundle import Bundle
from edge_agent.errors import BundleInvalid, EngineFailed
from hilum.catalog import BY_SLUG, CATALOG
from hilum.manifest import EngineVariant, GoldenFinding, GoldenTolerance, InputSpec, Manifest


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """What one case showed; `problems` is empty where all is as it should be."""

    case: str
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.problems


def run_golden(bundle: Bundle, engine: Engine) -> tuple[GoldenResult, ...]:
    """Run every golden case of a bundle on one of its engines, in the bundle's order.

    Raises:
        BundleInvalid: the engine's name is none of the bundle's variants, or a picture is not of
            the input's form.
        EngineFailed: the engine gave no answer, or one that is not finite.
    """
    manifest, variant = bundle.manifest, bundle.variant(engine.name)
    cases, tolerance = bundle.golden.cases, bundle.golden.tolerances[variant.name]
    pictures = [read_golden_image(bundle.read(case.image), manifest.input) for case in cases]
    problems: dict[str, tuple[str, ...]] = {case.name: () for case in cases}
    for said in run_cases(engine, pictures, manifest, variant):
        for case, found in zip(cases, said, strict=True):
            problems[case.name] += compare_findings(
                case.expected[variant.name], found, variant.operating_points, tolerance
            )
    return tuple(GoldenResult(name, found) for name, found in problems.items())


def run_content_check(
    bundle: Bundle, judge: Callable[[Pixels], ContentVerdict]
) -> tuple[GoldenResult, ...]:
    """Have a bundle's gate judge every golden picture, in the bundle's order.

    Args:
        bundle: whose pictures.
        judge: `engines.gate.Gate.judge`.

    Raises:
        BundleInvalid: a picture is not of the input's form.
        EngineFailed: the gate gave no answer.
    """
    verdicts = []
    for case in bundle.golden.cases:
        seen = judge(read_golden_image(bundle.read(case.image), bundle.manifest.input))
        problems = () if seen.refusal is None else (f"refused as {seen.refusal}",)
        verdicts.append(GoldenResult(case.name, problems))
    return tuple(verdicts)


def run_cases(
    engine: Engine, pictures: Sequence[Pixels], manifest: Manifest, variant: EngineVariant
) -> Iterator[list[tuple[Finding, ...]]]:
    """Findings in each picture u8 (H, W) of the input's very size, at the operating points.

    An engine that takes several images in one run is asked for each alone, and then for several
    together, the first ones filling up the last run: it may compute them by other code.

    Raises:
        EngineFailed: the engine gave no answer, or none that can be one.
    """
    count = len(pictures)
    for images in sorted({1, max(1, min(engine.max_batch, count))}):
        said = []
        for k in range(0, count, images):
            batch = np.stack([pictures[i % count] for i in range(k, k + images)])
            outputs = engine.infer(batch[:, None])
            said += [_findings(engine, of_one, manifest, variant) for of_one in outputs]
        yield said[:count]


def _findings(
    engine: Engine, outputs: RawOutputs, manifest: Manifest, variant: EngineVariant
) -> tuple[Finding, ...]:
    spec = manifest.input
    whole = Letterbox.fit(spec.height, spec.width, spec.height, spec.width)
    thresholds = [variant.operating_points[slug] for slug in manifest.findings]
    try:
        return decode_findings(
            outputs, whole, manifest.head, thresholds, manifest.catalogue_indexes
        )
    except OutputsInvalid as error:
        raise EngineFailed(f"{engine.name}: {error}") from error


def compare_findings(
    expected: Sequence[GoldenFinding],
    found: Sequence[Finding],
    operating_points: dict[str, float],
    tolerance: GoldenTolerance,
) -> tuple[str, ...]:
    """Where two lists of findings disagree by more than the tolerance, in words.

    Each expected finding takes, best score first, the free finding of its class that overlaps it
    most. What stays alone on either side counts only if its score is clear of its operating point.
    """
    free = list(found)
    problems = []
    for wanted in sorted(expected, key=lambda finding: -finding.score):
        index, box = BY_SLUG[wanted.finding].index, Box(*wanted.box)
        alike = [f for f in free if f.index == index and iou(f.box, box) >= tolerance.min_iou]
        if alike:
            match = max(alike, key=lambda finding: iou(finding.box, box))
            free.remove(match)
            if abs(match.score - wanted.score) > tolerance.score:
                problems.append(
                    f"{wanted.finding} has score {match.score:.3f}, recorded was {wanted.score:.3f}"
                )
        elif wanted.score >= operating_points[wanted.finding] + tolerance.score:
            problems.append(f"{wanted.finding} with score {wanted.score:.3f} is missing")
    for extra in free:
        slug = CATALOG[extra.index].slug
        if extra.score >= operating_points[slug] + tolerance.score:
            problems.append(f"{slug} with score {extra.score:.3f} was not recorded")
    return tuple(problems)


def read_golden_image(png: bytes, spec: InputSpec) -> Pixels:
    """A golden picture, u8 (H, W).

    Raises:
        BundleInvalid: it is not an 8-bit grey picture of the input's size.
    """
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) if png else None
    if pixels is None or pixels.dtype != np.uint8 or pixels.shape != (spec.height, spec.width):
        raise BundleInvalid("a golden picture is not 8-bit grey of the input's size")
    return np.ascontiguousarray(pixels)
