"""From the settings to a model that may answer."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.app import models
from edge_agent.app.models import (
    build_decoder,
    bundle_facts,
    golden_problem,
    load_model,
    open_bundle,
    open_pipeline,
    run_load,
)
from edge_agent.config import Settings
from edge_agent.core.engine_selection import ONE_AT_A_TIME
from edge_agent.decoding.decoder import Decoder, SandboxedDecoder
from edge_agent.engines.base import Engine
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.selection.select import EngineSelection
from edge_agent.errors import BundleInvalid, ConfigInvalid, EngineFailed
from edge_agent.serving.detection import DetectionService
from edge_agent.serving.types import DetectionRequest
from hilum.manifest import EngineVariant
from tests.support.agents.tagged import SIDE, fake_pipeline, settings, tagged_png, write_toy_bundle
from tests.support.engines.bundles import VARIANT
from tests.support.engines.content_checks import bundle_with_gate
from tests.support.engines.fake_engine import FakeEngine
from tests.support.engines.variants import bundle_with, variant


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


def test_a_bundle_that_comes_with_the_agent_goes_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = write_toy_bundle(tmp_path / "starter-toy-1.0.0.bundle")
    monkeypatch.setattr(models, "shipped_bundles", lambda: {"starter-toy": shipped})
    assert open_bundle(settings(bundle=Path("starter-toy"))).path == shipped
    with pytest.raises(BundleInvalid, match="starter-toys"):
        open_bundle(settings(bundle=Path("starter-toys")))


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


def test_a_gate_that_refuses_a_golden_picture_is_told_of(tmp_path: Path) -> None:
    told = settings(
        bundle=bundle_with_gate(tmp_path / "a.bundle", refuses=True), cache_dir=tmp_path / "cache"
    )
    model, _batch = load_model(told)
    said = model.self_test()
    assert "The gate by content refuses" in said
    assert "(mass: refused as not_a_chest)" in said
    model.close()


async def test_a_load_that_fails_at_once_leaves_the_decoders_to_the_next() -> None:
    told = settings(decode={"workers": 1})
    decoder = build_decoder(told)

    def fails(settings: Settings, decoder: Decoder) -> DetectionService:
        raise EngineFailed("no engine agrees")

    try:
        for _ in range(2):
            with pytest.raises(EngineFailed):
                await run_load(told, fails, decoder)
        pipeline = await run_load(told, fake_pipeline, decoder)
        answer = await pipeline.detect(DetectionRequest("", tagged_png(200)))
        assert answer.findings
        assert isinstance(decoder, SandboxedDecoder)
        assert len(decoder.stats().pids) == 1
    finally:
        await decoder.close()


async def test_without_a_server_too_nothing_is_answered_before_the_golden_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = settings(bundle=write_toy_bundle(tmp_path / "toy.bundle"), cache_dir=tmp_path / "cache")
    async with open_pipeline(told) as pipeline:
        assert (await pipeline.detect(DetectionRequest("", tagged_png(200)))).findings
    wrong = FakeEngine(SIDE, SIDE, name="openvino-fp32")  # Sees another class than recorded.
    monkeypatch.setattr(models, "open_engine", lambda *_, **__: wrong)
    with pytest.raises(EngineFailed, match="does not answer the bundle's golden cases") as caught:
        async with open_pipeline(told):
            pytest.fail("it must not be had")
    assert caught.value.hint
    with pytest.raises(EngineFailed, match="is closed"):
        wrong.infer(np.zeros((1, 1, SIDE, SIDE), np.uint8))


CARD = "tensorrt-int8"


@pytest.fixture
def with_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Engine]]:
    """A bundle whose variant for cards is the one chosen for as long as it is not excluded."""
    path = tmp_path / "a.bundle"
    bundle_with(
        path, variant(CARD, precision="int8", model="model.onnx", weights=None), variant(VARIANT)
    )

    def choose(
        bundle: Bundle, *_: object, without: Collection[str] = (), **__: object
    ) -> EngineSelection:
        named = bundle.variant(VARIANT if CARD in without else CARD)
        return EngineSelection(named, "measured before", (), ONE_AT_A_TIME, remembered=True)

    monkeypatch.setattr(models, "choose", choose)
    return path, []


@pytest.mark.parametrize("fails", ["to open", "its golden cases"])
def test_a_card_that_fails_at_a_later_start_is_done_without(
    fails: str,
    with_card: tuple[Path, list[Engine]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    path, opened = with_card
    real = models.open_engine

    def open_engine(bundle: Bundle, named: EngineVariant, **options: Any) -> Engine:
        if named.name != CARD:
            return real(bundle, named, **options)
        if fails == "to open":
            raise EngineFailed("the card has fallen off the bus")
        opened.append(FakeEngine(96, 96, name=CARD))  # Blind to what the cases show.
        return opened[-1]

    monkeypatch.setattr(models, "open_engine", open_engine)
    model, _ = load_model(settings(bundle=path, cache_dir=tmp_path / "cache"))
    assert model.engine.name == VARIANT
    model.close()
    told = settings(bundle=path, cache_dir=tmp_path / "cache", engine={"variant": CARD})
    if fails == "to open":  # What the operator asked for by name is not replaced in silence.
        with pytest.raises(EngineFailed, match="fallen off the bus"):
            load_model(told)
    else:
        (given_up,) = opened
        with pytest.raises(EngineFailed, match="is closed"):
            given_up.infer(np.zeros((1, 1, 96, 96), np.uint8))
