"""Records a bundle's golden cases, and checks that a bundle reproduces its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from edge_agent.core.findings import Finding
from edge_agent.engines.base import Pixels
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.content_check import OpenVinoContentChecker
from edge_agent.engines.golden import compare_findings, read_golden_image, run_cases, run_golden
from edge_agent.engines.runtimes.openvino import OpenVinoOptions
from hilum.catalog import CATALOG
from hilum.manifest import EngineVariant, GoldenCase, GoldenFinding
from training.bundle.layout import golden_image_path
from training.bundle.measuring import measuring_engine
from training.bundle.variants import TOLERANCES
from training.errors import TrainingError

MOST_CASES: Final = 12


def record_cases(
    draft: Bundle, pictures: Mapping[str, Pixels], options: OpenVinoOptions
) -> tuple[GoldenCase, ...]:
    """Record every variant's findings on the images where rounding does not change them.

    Args:
        draft: the bundle without golden cases.
        pictures: candidates by name, u8 (H, W).
        options: options of the engines.

    Returns:
        At most `MOST_CASES` cases, those with the most findings.

    Raises:
        TrainingError: no image has a stable finding of some variant.
    """
    recorded = {
        variant.name: _record_variant(draft, variant, pictures, options)
        for variant in draft.manifest.engines
    }
    stable = [case for case in sorted(pictures) if all(case in of for of in recorded.values())]
    for name, of in recorded.items():
        if not any(of[case] for case in stable):
            raise TrainingError(f"no golden image has a finding that {name} reproduces")
    # All of them run at every start, so only a dozen with the most findings are kept.
    stable.sort(key=lambda case: -min(len(of[case]) for of in recorded.values()))
    return tuple(
        GoldenCase(
            name=case,
            image=golden_image_path(case),
            expected={name: of[case] for name, of in recorded.items()},
        )
        for case in sorted(stable[:MOST_CASES])
    )


def _record_variant(
    draft: Bundle, variant: EngineVariant, pictures: Mapping[str, Pixels], options: OpenVinoOptions
) -> dict[str, tuple[GoldenFinding, ...]]:
    exact, *others = (
        findings
        for engine in (
            measuring_engine(draft, variant, replace(options, inference_precision="f32")),
            measuring_engine(draft, variant, options),
        )
        for findings in run_cases(engine, list(pictures.values()), draft.manifest, variant)
    )
    tolerance = TOLERANCES[variant.name]
    recorded = [_to_golden(findings) for findings in exact]
    return {
        case: findings
        for case, findings, *found in zip(pictures, recorded, *others, strict=True)
        if not any(
            compare_findings(findings, it, variant.operating_points, tolerance) for it in found
        )
    }


def _to_golden(findings: Sequence[Finding]) -> tuple[GoldenFinding, ...]:
    """Return findings as a golden case holds them, rounded."""
    return tuple(
        GoldenFinding(
            finding=CATALOG[finding.index].slug,
            score=round(finding.score, 4),
            box=tuple(
                round(edge, 2)
                for edge in (
                    finding.box.x_min,
                    finding.box.y_min,
                    finding.box.x_max,
                    finding.box.y_max,
                )
            ),
        )
        for finding in findings
    )


def check_golden_cases(bundle: Bundle, variant: EngineVariant, options: OpenVinoOptions) -> None:
    """Check that a variant reproduces the golden cases.

    Raises:
        TrainingError: it does not reproduce one of them.
    """
    engine = measuring_engine(bundle, variant, options)
    for verdict in run_golden(bundle, engine):
        if not verdict.passed:
            raise TrainingError(
                f"{variant.name} fails its golden case {verdict.case}: {verdict.problems}"
            )
    engine.close()


def check_content_check(bundle: Bundle) -> None:
    """Check that the content check accepts every golden image: each of them shows a chest.

    Raises:
        TrainingError: it refuses one.
    """
    checker = OpenVinoContentChecker.of(bundle)
    if checker is None:
        return
    for case in bundle.golden.cases:
        verdict = checker.judge(read_golden_image(bundle.read(case.image), bundle.manifest.input))
        if verdict.refusal:
            raise TrainingError(
                f"the content check refuses the golden case {case.name}: {verdict.refusal}"
            )
    checker.close()
