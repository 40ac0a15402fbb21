"""An agent whose model has three of the catalogue's findings, over gRPC and HTTP."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np

from edge_agent.app.models import load_detection_service
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.golden import run_golden
from edge_agent.engines.runtimes.factory import open_engine
from hilum.catalog import BY_SLUG
from hilum.client import AsyncClient
from tests.support.agents.tagged import running_agent, settings
from tests.support.engines.bundles import VARIANT, partial_bundle, picture, png

POINTS = {"cardiomegaly": 0.5, "nodule_mass": 0.6, "pneumothorax": 0.7}
ROWS = 4 + len(POINTS)
BOX = (40, 48, 20, 30)
GOLDEN = picture((0, 204, BOX), rows=ROWS)
# Scores 0.8, 0.7 and 0.65; the last does not reach its operating point.
SHOWN = picture((0, 204, BOX), (1, 178, (60, 30, 20, 20)), (2, 166, (20, 20, 10, 10)), rows=ROWS)
IMAGE = png(np.kron(SHOWN, np.ones((2, 2), np.uint8)))
"""Twice as large as the model's input: the agent refuses images of under 128 pixels a side."""


async def test_classes_names_codes_and_thresholds_are_those_of_the_models_findings(
    tmp_path: Path,
) -> None:
    bundle = partial_bundle(tmp_path / "three.bundle", POINTS, GOLDEN)
    agent_settings = settings(
        bundle=bundle, cache_dir=tmp_path / "cache", http={"enabled": True, "port": 0}
    )
    async with running_agent(agent_settings, load_detection_service) as agent:
        async with AsyncClient(agent.address) as client:
            model = await client.model()
            result = await client.detect(IMAGE)
            lowered = await client.detect(IMAGE, threshold=0.3)
        async with httpx.AsyncClient(base_url=agent.page, timeout=60) as caller:
            described = (await caller.get("/model")).json()
            file = {"file": ("a.png", IMAGE)}
            predicted = (await caller.post("/predict", files=file)).json()

    entries = [BY_SLUG[slug] for slug in POINTS]
    assert [finding.entry for finding in model.findings] == entries
    assert [round(finding.operating_point, 6) for finding in model.findings] == [0.5, 0.6, 0.7]
    assert [finding.entry for finding in result.findings] == entries[:2]
    assert [round(finding.score, 2) for finding in result.findings] == [0.8, 0.7]
    assert [finding.entry for finding in lowered.findings] == entries

    assert [(it["index"], it["slug"], it["operating_point"]) for it in described["findings"]] == [
        (entry.index, entry.slug, POINTS[entry.slug]) for entry in entries
    ]
    assert [
        (it["index"], it["class"], it["name"], it["concept"]["value"])
        for it in predicted["predictions"]
    ] == [(it.index, it.slug, it.name, it.concept.value) for it in entries[:2]]


def test_a_golden_case_is_compared_by_the_catalogues_index(tmp_path: Path) -> None:
    bundle = Bundle.open(partial_bundle(tmp_path / "three.bundle", POINTS, GOLDEN))
    engine = open_engine(bundle, bundle.variant(VARIANT))
    assert [result.problems for result in run_golden(bundle, engine)] == [()]
    engine.close()


def test_a_golden_case_of_another_class_is_a_problem(tmp_path: Path) -> None:
    other = picture((1, 204, BOX), rows=ROWS)
    bundle = Bundle.open(partial_bundle(tmp_path / "three.bundle", POINTS, other))
    engine = open_engine(bundle, bundle.variant(VARIANT))
    assert [result.problems for result in run_golden(bundle, engine)] == [
        (
            "cardiomegaly with score 0.800 is missing",
            "nodule_mass with score 0.800 was not recorded",
        )
    ]
    engine.close()
