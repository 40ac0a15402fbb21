"""The bundles inside the agent's package: each opens, proves itself, says what it is."""

from __future__ import annotations

import pytest

from edge_agent.engines.bundle import Bundle, shipped_bundles, starter_bundle_path
from edge_agent.engines.golden import run_golden
from edge_agent.engines.runtimes.openvino import OpenVinoEngine, OpenVinoOptions
from hilum.catalog import CATALOG
from hilum.manifest import ChangeControl
from training.release.publish import metrics_of


@pytest.fixture(scope="module", params=["starter", "starter-hardswish"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return Bundle.open(shipped_bundles()[request.param])


def test_there_are_these_and_no_others() -> None:
    assert {
        (path.name, Bundle.open(path).manifest.name, Bundle.open(path).manifest.version)
        for path in starter_bundle_path().parent.iterdir()
    } == {
        ("starter-0.2.0.bundle", "starter", "0.2.0"),
        ("starter-hardswish-0.2.0.bundle", "starter-hardswish", "0.2.0"),
    }


@pytest.mark.parametrize("name", ["openvino-int8", "openvino-fp32"])
def test_golden_cases_pass(bundle: Bundle, name: str) -> None:
    engine = OpenVinoEngine(bundle, bundle.variant(name), OpenVinoOptions(threads=1, requests=1))
    verdicts = run_golden(bundle, engine)
    engine.close()
    assert verdicts
    assert all(verdict.passed for verdict in verdicts), verdicts


def test_the_card_says_what_it_is_not(bundle: Bundle) -> None:
    card = bundle.read(bundle.manifest.model_card).decode()
    assert "not for clinical use" in card
    assert "synthetic" in card
    assert bundle.manifest.provenance.command in card
    assert f"seed {bundle.manifest.provenance.seed}" in card
    assert "CC BY" in card


def test_its_card_and_its_evidence_tell_what_int8_costs(bundle: Bundle) -> None:
    card = bundle.read(bundle.manifest.model_card).decode()
    section = card.split("## What is shipped, beside what was trained")[1]
    assert "| torch, FP32 |" in section
    assert "| openvino-int8 |" in section
    change = bundle.manifest.change_control
    assert change is not None
    assert change.replaces
    assert all(it.value <= _bound(change, it.bound) for it in change.results)
    assert bundle.manifest.sbom


def _bound(change: ChangeControl, name: str) -> float:
    return next(it.at_most for it in change.protocol.bounds if it.name == name)


def test_its_evidence_can_be_published(bundle: Bundle) -> None:
    metrics = metrics_of(bundle)
    assert {"map50", "image_specificity", "openvino-int8/map50_drop"} <= set(metrics)


def test_operating_points_and_figures_are_there(bundle: Bundle) -> None:
    for engine in bundle.manifest.engines:
        assert set(engine.operating_points) == {finding.slug for finding in CATALOG}
        assert all(0.05 <= point <= 0.95 for point in engine.operating_points.values())
    metrics = set(bundle.manifest.provenance.metrics)
    assert {"map40", "openvino-int8/map50", "openvino-fp32/map50"} <= metrics
    assert bundle.path.stat().st_size < 16 * 2**20
