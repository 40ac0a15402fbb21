"""Checks that an engine reproduces a bundle's golden cases on this machine.

A processor without the right instructions, a damaged library or a wrong compiled model can make an
engine compute quickly and wrongly. A bundle's golden cases are synthetic images with the findings
that each variant computed when the bundle was made; they are run before an engine may answer for a
patient. The content check is run on them too: each shows an upright chest, so it may refuse none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import cv2
import numpy as np

from edge_agent.core.content_check import ContentVerdict
from edge_agent.core.findings import Box, Finding, OutputsInvalid, decode_findings, iou
from edge_agent.core.geometry import Letterbox
from edge_agent.engines.base import Engine, Pixels, RawOutputs
from edge_agent.engines.bundle import Bundle, find_variant
from edge_agent.errors import BundleInvalid, EngineFailed
from hilum.catalog import BY_SLUG, CATALOG
from hilum.manifest import (
    EngineVariant,
    GoldenCases,
    GoldenFinding,
    GoldenTolerance,
    InputSpec,
    Manifest,
)


class GoldenSource(Protocol):
    """A bundle's golden cases and their images. A `Bundle` is one; so is a `GoldenSet`."""

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        ...

    @property
    def golden(self) -> GoldenCases:
        """The cases with the findings that each variant computed."""
        ...

    def read(self, member: str) -> bytes:
        """Return an image's bytes.

        Raises:
            BundleInvalid: there is no such image.
        """
        ...


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """A bundle's golden cases in memory; implements `GoldenSource`.

    A model that serves can be tested with it after its bundle's file was moved or replaced. The
    starter's twelve images take 1.1 MB.

    Attributes:
        manifest, golden: the bundle's.
        images: the cases' images as PNG, by the name of their member.
    """

    manifest: Manifest
    golden: GoldenCases
    images: Mapping[str, bytes]

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """Return the golden cases of a bundle.

        Raises:
            BundleInvalid: an image has changed since the bundle was opened.
        """
        images = {case.image: bundle.read(case.image) for case in bundle.golden.cases}
        return cls(bundle.manifest, bundle.golden, images)

    def read(self, member: str) -> bytes:
        """See `GoldenSource.read`."""
        try:
            return self.images[member]
        except KeyError:
            raise BundleInvalid(f"the bundle has no golden image {member!r}") from None


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """The result of one golden case; `problems` is empty if it passed."""

    case: str
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Return True if the case has no problem."""
        return not self.problems


def run_golden(source: GoldenSource, engine: Engine) -> tuple[GoldenResult, ...]:
    """Run every golden case of a bundle on one of its engines.

    Returns:
        The results, in the bundle's order.

    Raises:
        BundleInvalid: the bundle has no variant of the engine's name, or a golden image is not of
            the input's form.
        EngineFailed: the engine computed no output, or one that is not finite.
    """
    manifest, variant = source.manifest, find_variant(source.manifest, engine.name)
    cases, tolerance = source.golden.cases, source.golden.tolerances[variant.name]
    golden_images = [read_golden_image(source.read(case.image), manifest.input) for case in cases]
    problems: dict[str, tuple[str, ...]] = {case.name: () for case in cases}
    for findings in run_cases(engine, golden_images, manifest, variant):
        for case, found in zip(cases, findings, strict=True):
            problems[case.name] += compare_findings(
                case.expected[variant.name], found, variant.operating_points, tolerance
            )
    return tuple(GoldenResult(name, found) for name, found in problems.items())


def run_content_check(
    source: GoldenSource, judge: Callable[[Pixels], ContentVerdict]
) -> tuple[GoldenResult, ...]:
    """Run a bundle's content check on every golden image.

    Args:
        source: the bundle's golden cases.
        judge: `ContentChecker.judge`.

    Returns:
        The results, in the bundle's order. A refusal is a problem.

    Raises:
        BundleInvalid: a golden image is not of the input's form.
        EngineFailed: the content check computed no output.
    """
    results = []
    for case in source.golden.cases:
        verdict = judge(read_golden_image(source.read(case.image), source.manifest.input))
        problems = () if verdict.refusal is None else (f"refused as {verdict.refusal}",)
        results.append(GoldenResult(case.name, problems))
    return tuple(results)


def run_cases(
    engine: Engine, golden_images: Sequence[Pixels], manifest: Manifest, variant: EngineVariant
) -> Iterator[list[tuple[Finding, ...]]]:
    """Run an engine on golden images, singly and then in batches.

    An engine that takes several images in one run may compute a batch by other code than a single
    image. The first images fill up the last batch.

    Args:
        engine: the engine.
        golden_images: u8 (H, W), of exactly the input's size.
        manifest: the bundle's.
        variant: the variant that the engine runs; its operating points are applied.

    Yields:
        For each size of batch the findings of every image, in the images' order.

    Raises:
        EngineFailed: the engine computed no output, or one that is not valid.
    """
    count = len(golden_images)
    for size in sorted({1, max(1, min(engine.max_batch, count))}):
        found: list[tuple[Finding, ...]] = []
        for first in range(0, count, size):
            batch = np.stack([golden_images[k % count] for k in range(first, first + size)])
            outputs = engine.infer(batch[:, None])
            found += [_decode(engine, output, manifest, variant) for output in outputs]
        yield found[:count]


def _decode(
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
    """Compare an engine's findings with the recorded ones.

    Expected findings are matched in the order of falling scores, each with the unmatched finding of
    its class that overlaps it most. An unmatched finding on either side is a problem only if its
    score exceeds its operating point by at least the tolerance.

    Args:
        expected: the recorded findings.
        found: the engine's findings.
        operating_points: score thresholds by slug.
        tolerance: how far scores and boxes may differ.

    Returns:
        A sentence for each difference that exceeds the tolerance.
    """
    unmatched = list(found)
    problems = []
    for recorded in sorted(expected, key=lambda finding: -finding.score):
        index, box = BY_SLUG[recorded.finding].index, Box(*recorded.box)
        candidates = [
            f for f in unmatched if f.index == index and iou(f.box, box) >= tolerance.min_iou
        ]
        if candidates:
            match = max(candidates, key=lambda finding: iou(finding.box, box))
            unmatched.remove(match)
            if abs(match.score - recorded.score) > tolerance.score:
                problems.append(
                    f"{recorded.finding} has score {match.score:.3f}, "
                    f"recorded was {recorded.score:.3f}"
                )
        elif recorded.score >= operating_points[recorded.finding] + tolerance.score:
            problems.append(f"{recorded.finding} with score {recorded.score:.3f} is missing")
    for extra in unmatched:
        slug = CATALOG[extra.index].slug
        if extra.score >= operating_points[slug] + tolerance.score:
            problems.append(f"{slug} with score {extra.score:.3f} was not recorded")
    return tuple(problems)


def read_golden_image(png: bytes, spec: InputSpec) -> Pixels:
    """Decode a golden image.

    Returns:
        u8 (H, W).

    Raises:
        BundleInvalid: the image is not 8-bit grey of the input's size.
    """
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) if png else None
    if pixels is None or pixels.dtype != np.uint8 or pixels.shape != (spec.height, spec.width):
        raise BundleInvalid("a golden image is not 8-bit grey of the input's size")
    return np.ascontiguousarray(pixels)
