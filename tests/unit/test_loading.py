"""From the settings to a model that may answer."""

from __future__ import annotations

import pytest

from edge_agent.engines.fake import FakeEngine
from edge_agent.errors import ConfigInvalid
from edge_agent.loading import bundle_facts, golden_problem, load_model, open_bundle
from tests.agents import SIDE, settings, write_toy_bundle


def test_a_loaded_model_says_what_the_bundle_says(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("toy")
    told = settings(bundle=write_toy_bundle(folder / "toy.bundle"), cache_dir=folder / "cache")
    facts = bundle_facts(told)
    model, _batch = load_model(told)
    assert model.self_test() == ""
    model.close()
    assert model.digest == facts["digest"]
    assert model.engine.name in facts["runnable_engines"]
    assert "agrees with the golden cases" in model.reason
    assert not model.reason.endswith("remembered")
    again, _batch = load_model(told)
    again.close()
    assert again.reason == f"{model.reason}; remembered"
    assert model.thresholds() == list(facts["operating_points"][model.engine.name].values())
    assert model.thresholds(0.7) == [0.7] * 14


def test_an_engine_that_the_bundle_has_not_is_the_operators_to_mend(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("toy")
    told = settings(
        bundle=write_toy_bundle(folder / "toy.bundle"),
        cache_dir=folder / "cache",
        engine={"variant": "openvino-int8"},
    )
    with pytest.raises(ConfigInvalid) as caught:
        load_model(told)
    assert "openvino-fp32" in caught.value.hint


def test_an_engine_that_answers_wrongly_is_told_by_the_golden_cases(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("toy")
    bundle = open_bundle(settings(bundle=write_toy_bundle(folder / "toy.bundle")))
    wrong = FakeEngine(SIDE, SIDE, name="openvino-fp32")  # Sees another class than recorded.
    assert "does not answer the bundle's golden cases as recorded (white: " in golden_problem(
        bundle, wrong
    )
    wrong.close()
    assert "closed" in golden_problem(bundle, wrong)
