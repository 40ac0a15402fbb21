"""The bundles that come with the agent prove themselves on this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from edge_agent.engines.bundle import Bundle, shipped_bundles
from edge_agent.engines.content_check import OpenVinoContentChecker
from edge_agent.engines.golden import read_golden_image, run_content_check, run_golden
from edge_agent.engines.runtimes.factory import open_engine
from edge_agent.engines.runtimes.openvino import OpenVinoEngine, OpenVinoOptions, has_native_bf16
from hilum.manifest import EngineVariant

pytestmark = pytest.mark.slow

MAX_BYTES = 10 << 20
OPTIONS = OpenVinoOptions(threads=2)


@pytest.fixture(scope="module", params=["starter", "starter-hardswish"])
def starter(request: pytest.FixtureRequest) -> Bundle:
    return Bundle.open(shipped_bundles()[request.param])


def runnable(starter: Bundle) -> list[EngineVariant]:
    return [v for v in starter.manifest.engines if v.precision != "bf16" or has_native_bf16()]


def test_it_is_small_and_says_what_it_is_not_for(starter: Bundle) -> None:
    assert starter.path.stat().st_size < MAX_BYTES
    assert "not for clinical use" in starter.manifest.intended_use.lower()
    card = starter.read(starter.manifest.model_card).decode()
    assert "synthetic" in card
    assert "not for clinical use" in card.lower()


def test_every_variant_still_says_what_was_recorded(starter: Bundle) -> None:
    for variant in runnable(starter):
        engine = open_engine(starter, variant, threads=2)
        verdicts = run_golden(starter, engine)
        assert [v for v in verdicts if not v.passed] == [], variant.name
        engine.close()


def test_its_content_check_refuses_none_of_its_golden_images(starter: Bundle) -> None:
    checker = OpenVinoContentChecker.of(starter)
    assert checker is not None
    assert [
        verdict for verdict in run_content_check(starter, checker.judge) if not verdict.passed
    ] == []


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_int8_does_so_whatever_its_float_parts_are_computed_in(
    starter: Bundle, precision: Literal["f32", "bf16"]
) -> None:
    if precision == "bf16" and not has_native_bf16():
        pytest.skip("this processor does not compute BF16")
    options = replace(OPTIONS, inference_precision=precision)
    engine = OpenVinoEngine(starter, starter.variant("openvino-int8"), options)
    assert all(verdict.passed for verdict in run_golden(starter, engine))


def test_from_the_cache_comes_the_same_model(starter: Bundle, tmp_path: Path) -> None:
    variant = starter.variant("openvino-int8")
    case = starter.golden.cases[0]
    picture = read_golden_image(starter.read(case.image), starter.manifest.input)[None, None]
    options = replace(OPTIONS, cache_dir=tmp_path / "cache")
    fresh, again = (OpenVinoEngine(starter, variant, options) for _ in range(2))
    np.testing.assert_array_equal(fresh.infer(picture), again.infer(picture))
