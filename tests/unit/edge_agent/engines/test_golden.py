"""Golden cases: accepted and refused differences from the recorded findings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_agent.core.findings import Box, Finding
from edge_agent.engines.base import Pixels, RawOutputs
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.content_check import OpenVinoContentChecker
from edge_agent.engines.golden import (
    GoldenResult,
    compare_findings,
    read_golden_image,
    run_content_check,
    run_golden,
)
from edge_agent.engines.runtimes.openvino import OpenVinoEngine, OpenVinoOptions
from edge_agent.errors import BundleInvalid, EngineFailed
from hilum.catalog import CATALOG
from hilum.manifest import GoldenFinding, GoldenTolerance, InputSpec
from tests.support.engines import bundles
from tests.support.engines.content_checks import bundle_with_content_check
from tests.support.engines.fake_engine import FakeEngine

TOLERANCE = GoldenTolerance(score=0.1, min_iou=0.7)
POINTS = {finding.slug: 0.5 for finding in CATALOG}
RECORDED = GoldenFinding(finding="nodule_mass", score=0.8, box=(10, 10, 30, 30))
SAME = Finding(8, 0.8, Box(10, 10, 30, 30))


def compare_to_recorded(*findings: Finding) -> tuple[str, ...]:
    return compare_findings([RECORDED], findings, POINTS, TOLERANCE)


def test_small_differences_from_the_recorded_finding_pass() -> None:
    assert compare_to_recorded(SAME) == ()
    assert compare_to_recorded(replace(SAME, score=0.71, box=Box(11, 10, 31, 31))) == ()


def test_a_lost_moved_or_renamed_finding_fails() -> None:
    assert compare_to_recorded() == ("nodule_mass with score 0.800 is missing",)
    assert compare_to_recorded(replace(SAME, score=0.69)) == (
        "nodule_mass has score 0.690, recorded was 0.800",
    )
    assert compare_to_recorded(replace(SAME, box=Box(18, 10, 38, 30))) == (
        "nodule_mass with score 0.800 is missing",
        "nodule_mass with score 0.800 was not recorded",
    )
    assert compare_to_recorded(replace(SAME, index=7)) == (
        "nodule_mass with score 0.800 is missing",
        "lung_opacity with score 0.800 was not recorded",
    )


def test_a_repeated_finding_fails_as_an_additional_one() -> None:
    assert compare_to_recorded(SAME, SAME) == ("nodule_mass with score 0.800 was not recorded",)


def test_findings_near_their_operating_point_may_appear_and_disappear() -> None:
    near = RECORDED.model_copy(update={"score": 0.55})
    assert compare_findings([near], [], POINTS, TOLERANCE) == ()
    assert compare_findings([], [replace(SAME, score=0.55)], POINTS, TOLERANCE) == ()
    assert compare_findings([], [replace(SAME, score=0.65)], POINTS, TOLERANCE) != ()


def test_each_recorded_finding_is_paired_with_the_one_that_overlaps_it_most() -> None:
    beside = RECORDED.model_copy(update={"box": (12, 10, 32, 30), "score": 0.75})
    both = [replace(SAME, box=Box(12, 10, 32, 30), score=0.75), SAME]
    assert compare_findings([beside, RECORDED], both, POINTS, TOLERANCE) == ()


def test_the_recording_engine_passes(bundle: Bundle) -> None:
    engine = OpenVinoEngine(bundle, bundle.variant(bundles.VARIANT), OpenVinoOptions(threads=1))
    verdicts = run_golden(bundle, engine)
    assert [(v.case, v.passed) for v in verdicts] == [("mass", True), ("clear", True)]


class Saturated(FakeEngine):
    """An engine with a score of 1 everywhere."""

    def infer(self, batch: Pixels) -> RawOutputs:
        outputs = super().infer(batch)
        outputs[:, 4:] = 1
        return outputs


def test_an_engine_that_is_wrong_fails(bundle: Bundle) -> None:
    blind = FakeEngine(bundles.SIZE, bundles.SIZE, name=bundles.VARIANT, before=lambda b: b.fill(0))
    mass, clear = run_golden(bundle, blind)
    assert mass.problems == ("nodule_mass with score 0.800 is missing",)
    assert clear.passed
    saturated = Saturated(bundles.SIZE, bundles.SIZE, name=bundles.VARIANT)
    assert not run_golden(bundle, saturated)[0].passed


class NotANumber(FakeEngine):
    """An engine whose outputs are not a number."""

    def infer(self, batch: Pixels) -> RawOutputs:
        return np.full_like(super().infer(batch), np.nan)


def test_outputs_that_are_not_finite_are_an_error_and_not_a_failed_case(bundle: Bundle) -> None:
    with pytest.raises(EngineFailed, match="not finite"):
        run_golden(bundle, NotANumber(bundles.SIZE, bundles.SIZE, name=bundles.VARIANT))
    with pytest.raises(BundleInvalid, match="no engine variant 'fake'"):
        run_golden(bundle, FakeEngine(bundles.SIZE, bundles.SIZE))


@pytest.mark.parametrize("refuses", [False, True])
def test_the_content_check_may_refuse_no_golden_image(refuses: bool, tmp_path: Path) -> None:
    with_check = Bundle.open(bundle_with_content_check(tmp_path / "a.bundle", refuses=refuses))
    checker = OpenVinoContentChecker.of(with_check)
    assert checker is not None
    mass, clear = run_content_check(with_check, checker.judge)
    assert mass == GoldenResult("mass", ("refused as not_a_chest",) if refuses else ())
    assert clear == GoldenResult("clear", ())
    checker.close()
    with pytest.raises(EngineFailed, match="closed"):
        run_content_check(with_check, checker.judge)


@pytest.mark.parametrize(
    "content",
    [b"", b"no picture", bundles.png(np.zeros((96, 64), np.uint8))],
    ids=["nothing", "no picture", "another size"],
)
def test_a_picture_of_another_form_is_refused(content: bytes) -> None:
    with pytest.raises(BundleInvalid, match="not 8-bit grey"):
        read_golden_image(content, InputSpec(height=96, width=96))
