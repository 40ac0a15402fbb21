"""A bundle's engine is selected, opened and tested before it may answer."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.engine_selection import ONE_AT_A_TIME
from edge_agent.engines import loader
from edge_agent.engines.base import Engine
from edge_agent.engines.bundle import Bundle, starter_bundle_path
from edge_agent.engines.golden import GoldenSet
from edge_agent.engines.loader import InService, LoadOptions, load_model, self_test
from edge_agent.engines.model import LoadedModel
from edge_agent.engines.selection import in_service
from edge_agent.engines.selection.candidates import EngineSelection
from edge_agent.errors import BundleInvalid, ConfigInvalid, EngineFailed
from hilum.manifest import EngineVariant
from tests.support.agents.tagged import SIDE, write_toy_bundle
from tests.support.engines.bundles import VARIANT
from tests.support.engines.content_checks import bundle_with_content_check
from tests.support.engines.fake_engine import FakeEngine
from tests.support.engines.priority import run_at_normal_priority
from tests.support.engines.variants import bundle_with, variant


@pytest.fixture
def toy(tmp_path: Path) -> Bundle:
    return Bundle.open(write_toy_bundle(tmp_path / "toy.bundle"))


def model_of(bundle: Bundle, engine: Engine) -> LoadedModel:
    """Return a model of this engine with the bundle's golden cases."""
    selected, golden = bundle.variant(engine.name), GoldenSet.of(bundle)
    return LoadedModel(bundle.manifest, bundle.digest, selected, engine, "a test", golden=golden)


def test_a_loaded_model_is_the_bundles(toy: Bundle, tmp_path: Path) -> None:
    options = LoadOptions(tmp_path / "cache")
    model = load_model(toy, options)
    report = self_test(model)
    assert report.passed
    assert report.problem == report.error == ""
    assert [result.case for result in report.detector] == [it.name for it in toy.golden.cases]
    model.close()
    assert model.digest == toy.digest
    assert model.engine.name == model.variant.name == "openvino-fp32"
    assert "agrees with the golden cases" in model.reason
    assert not model.reason.endswith("cached")
    again = load_model(toy, options)
    again.close()
    assert again.reason == f"{model.reason}; cached"
    assert again.batch_policy == model.batch_policy
    assert model.thresholds() == list(toy.variant("openvino-fp32").operating_points.values())
    assert model.thresholds(0.7) == [0.7] * 14


def test_the_self_test_does_not_need_the_bundles_file(toy: Bundle, tmp_path: Path) -> None:
    model = load_model(toy, LoadOptions(tmp_path / "cache"))
    toy.path.unlink()
    report = self_test(model)
    assert report.passed
    assert report.detector
    model.close()


def test_a_variant_that_the_bundle_does_not_have_is_a_configuration_error(
    toy: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load_model(toy, LoadOptions(tmp_path / "cache", variant="openvino-int8"))
    assert "openvino-fp32" in caught.value.hint


def test_the_self_test_fails_an_engine_with_other_findings_than_recorded(toy: Bundle) -> None:
    wrong = FakeEngine(SIDE, SIDE, name="openvino-fp32")  # It finds another class than recorded.
    report = self_test(model_of(toy, wrong))
    assert not report.passed
    assert not report.error
    assert "does not answer the bundle's golden cases as recorded (white: " in report.problem
    wrong.close()
    report = self_test(model_of(toy, wrong))
    assert not report.passed
    assert "closed" in report.problem


def test_the_self_test_fails_a_content_check_that_refuses_a_golden_case(tmp_path: Path) -> None:
    bundle = Bundle.open(bundle_with_content_check(tmp_path / "a.bundle", refuses=True))
    model = load_model(bundle, LoadOptions(tmp_path / "cache"))
    report = self_test(model)
    assert not report.passed
    assert all(result.passed for result in report.detector)
    assert "The content check refuses" in report.problem
    assert "(mass: refused as not_a_chest)" in report.problem
    model.close()


def test_an_engine_is_closed_where_the_content_check_cannot_be_opened(
    toy: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened = FakeEngine(SIDE, SIDE, name="openvino-fp32")

    def fail(bundle: Bundle) -> None:
        raise BundleInvalid("the content check has another form")

    monkeypatch.setattr(loader, "open_engine", lambda *_, **__: opened)
    monkeypatch.setattr(loader.OpenVinoContentChecker, "of", fail)
    with pytest.raises(BundleInvalid):
        load_model(toy, LoadOptions(tmp_path / "cache"))
    assert "closed" in self_test(model_of(toy, opened)).problem


GPU_VARIANT = "tensorrt-int8"


@pytest.fixture
def bundle_for_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """Return a bundle whose GPU variant is selected for as long as it is not excluded."""
    path = tmp_path / "a.bundle"
    gpu = variant(GPU_VARIANT, precision="int8", model="model.onnx", weights=None)
    bundle_with(path, gpu, variant(VARIANT))

    def choose(
        bundle: Bundle, *_: object, without: Collection[str] = (), **__: object
    ) -> EngineSelection:
        selected = bundle.variant(VARIANT if GPU_VARIANT in without else GPU_VARIANT)
        return EngineSelection(selected, "measured before", (), ONE_AT_A_TIME, is_cached=True)

    monkeypatch.setattr(loader, "select_engine", choose)
    return Bundle.open(path)


@pytest.mark.parametrize("fails", ["to open", "its golden cases"])
def test_another_engine_replaces_a_gpu_that_fails_at_a_later_start(
    fails: str, bundle_for_gpu: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[Engine] = []
    open_real_engine = loader.open_engine

    def open_engine(bundle: Bundle, selected: EngineVariant, **options: Any) -> Engine:
        if selected.name != GPU_VARIANT:
            return open_real_engine(bundle, selected, **options)
        if fails == "to open":
            raise EngineFailed("the card has fallen off the bus")
        opened.append(FakeEngine(96, 96, name=GPU_VARIANT))  # It finds nothing in the cases.
        return opened[-1]

    monkeypatch.setattr(loader, "open_engine", open_engine)
    model = load_model(bundle_for_gpu, LoadOptions(tmp_path / "cache"))
    assert model.engine.name == VARIANT
    model.close()
    by_name = LoadOptions(tmp_path / "cache", variant=GPU_VARIANT)
    if fails == "to open":  # A variant that the operator names is not replaced.
        with pytest.raises(EngineFailed, match="fallen off the bus"):
            load_model(bundle_for_gpu, by_name)
    else:
        with pytest.raises(EngineFailed, match="does not answer the bundle's golden cases"):
            load_model(bundle_for_gpu, by_name)
        assert len(opened) == 2
        for wrong in opened:
            assert "closed" in self_test(model_of(bundle_for_gpu, wrong)).problem


ROOT = Path(__file__).parents[4]
BOUNDS = InService(memory_bytes=2 << 30, open_s=240.0)


@pytest.mark.slow
def test_in_service_a_model_is_opened_after_a_process_of_its_own_has_tested_it(
    toy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run_at_normal_priority(monkeypatch)
    model = load_model(toy, LoadOptions(tmp_path / "cache", threads=1, in_service=BOUNDS))
    assert self_test(model).passed
    assert model.reason.startswith("measured in service, in processor time: ")
    assert model.batch_policy == ONE_AT_A_TIME
    model.close()
    # One compiled model: that of the process, which this one has loaded.
    assert len(list((tmp_path / "cache" / "compiled").iterdir())) == 1
    assert list((tmp_path / "cache" / "selections").iterdir()) == []


@pytest.mark.slow
def test_in_service_the_starter_is_loaded_beside_another_model(
    toy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run_at_normal_priority(monkeypatch)
    serving = load_model(toy, LoadOptions(tmp_path / "cache", threads=1))
    options = LoadOptions(tmp_path / "cache", VARIANT, threads=1, in_service=BOUNDS)
    candidate = load_model(Bundle.open(starter_bundle_path()), options)
    assert self_test(candidate).passed
    assert self_test(serving).passed
    too_little = replace(options, in_service=replace(BOUNDS, memory_bytes=32 << 20))
    with pytest.raises(EngineFailed, match="needs more than 32 MiB"):
        load_model(toy, too_little)
    candidate.close()
    serving.close()


@pytest.mark.slow
def test_in_service_a_content_check_that_refuses_golden_cases_is_not_opened_in_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run_at_normal_priority(monkeypatch)
    monkeypatch.setattr(loader, "open_engine", lambda *_, **__: pytest.fail("opened in the agent"))
    bundle = Bundle.open(bundle_with_content_check(tmp_path / "a.bundle", refuses=True))
    with pytest.raises(EngineFailed, match="mass: refused as not_a_chest"):
        load_model(bundle, LoadOptions(tmp_path / "cache", threads=1, in_service=BOUNDS))


@pytest.fixture
def tested_in_service(toy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the toy's variant selected in service; its process held 100 MiB."""
    selection = EngineSelection(
        toy.variant(VARIANT), "a test", (), ONE_AT_A_TIME, is_cached=False, peak_bytes=100 << 20
    )
    monkeypatch.setattr(loader, "select_in_service", lambda *_, **__: selection)


@pytest.mark.usefixtures("tested_in_service")
def test_in_service_opening_that_hangs_is_abandoned_and_the_late_model_is_closed(
    toy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_open, was_closed = threading.Event(), threading.Event()

    class LateEngine(FakeEngine):
        def close(self) -> None:
            was_closed.set()

    def open_engine(*_: object, **__: object) -> Engine:
        assert may_open.wait(60)
        return LateEngine(SIDE, SIDE, name=VARIANT)

    monkeypatch.setattr(loader, "open_engine", open_engine)
    bounds = InService(memory_bytes=1 << 20, open_s=0.01)
    with pytest.raises(EngineFailed, match=r"openvino-fp32 did not open within 0\.01 s"):
        load_model(toy, LoadOptions(tmp_path / "cache", in_service=bounds))
    assert not was_closed.is_set()
    may_open.set()
    assert was_closed.wait(60)


@pytest.mark.usefixtures("tested_in_service")
def test_in_service_a_model_is_not_opened_without_the_memory_that_its_process_held(
    toy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_service, "available_memory_bytes", lambda: 99 << 20)
    monkeypatch.setattr(loader, "open_engine", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(EngineFailed, match="openvino-fp32 may need 100 MiB of memory, of which 99"):
        load_model(toy, LoadOptions(tmp_path / "cache", in_service=BOUNDS))
