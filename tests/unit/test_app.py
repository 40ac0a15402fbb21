from __future__ import annotations

import pytest

from edge_agent.app import bundle_facts, choose_variant, load_model
from edge_agent.errors import BundleInvalid, ConfigInvalid
from tests.agents import manifest, settings, write_toy_bundle


def test_auto_takes_the_bundles_first_that_runs_here() -> None:
    variant, reason = choose_variant(manifest("openvino-int8"), "auto")
    assert variant.name == "openvino-int8"
    assert "first" in reason


def test_the_operators_choice_counts() -> None:
    assert choose_variant(manifest("openvino-fp32"), "openvino-fp32")[1] == "set by the operator"
    with pytest.raises(ConfigInvalid) as caught:
        choose_variant(manifest("openvino-fp32"), "openvino-int8")
    assert "openvino-fp32" in caught.value.hint


def test_a_bundle_without_an_engine_that_runs_here_is_refused() -> None:
    only = manifest().engines[0].model_copy(update={"runtime": "tensorrt"})
    with pytest.raises(BundleInvalid, match="no engine that runs here"):
        choose_variant(manifest().model_copy(update={"engines": (only,)}), "auto")


def test_a_loaded_model_says_what_the_bundle_says(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("toy")
    told = settings(bundle=write_toy_bundle(folder / "toy.bundle"), cache_dir=folder / "cache")
    facts = bundle_facts(told)
    model = load_model(told)
    model.engine.close()
    assert (model.digest, model.engine.name) == (facts["digest"], facts["engine"])
    assert model.thresholds() == list(facts["operating_points"].values())
    assert model.thresholds(0.7) == [0.7] * 14
