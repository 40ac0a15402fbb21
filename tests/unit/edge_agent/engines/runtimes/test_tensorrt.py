"""The TensorRT engine's own logic with a fake GPU and a fake TensorRT.

docs/tensorrt.md describes what real TensorRT needs; tests/integration/cards tests it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.engines.bundle import Bundle
from edge_agent.engines.golden import run_golden
from edge_agent.engines.runtimes.tensorrt import TensorRtEngine, TensorRtOptions, find_target
from edge_agent.engines.runtimes.tensorrt_runtime import ANY, open_runtime
from edge_agent.errors import BundleInvalid, EngineFailed
from hilum.manifest import EngineTarget, EngineVariant
from tests.support.engines import bundles
from tests.support.engines.bundles import ROWS, SIZE
from tests.support.engines.cards import OPEN_PORTS, PORTS, FakeCudaDevice, FakePlan, FakeRuntime
from tests.support.engines.variants import (
    bundle_with,
    model_outputs,
    noise,
    transparent_onnx,
    variant,
)

TRT = "tensorrt-int8"
PREBUILT = b"built elsewhere"


def target(**changes: Any) -> EngineTarget:
    fields: dict[str, Any] = {
        "package": "tensorrt_rtx",
        "version": "1.2.3",
        "capabilities": ("8.6", "8.9"),
        "model": "tensorrt/a.plan",
    }
    return EngineTarget(**fields | changes)


def tensorrt(*targets: EngineTarget) -> EngineVariant:
    return variant(TRT, precision="int8", model="model.onnx", weights=None, targets=targets)


@pytest.fixture
def with_target(tmp_path: Path) -> Bundle:
    return bundle_with(
        tmp_path / "a.bundle", tensorrt(target()), more={"tensorrt/a.plan": PREBUILT}
    )


def open_engine(
    bundle: Bundle, card: FakeCudaDevice, runtime: FakeRuntime, cache: Path | None = None
) -> TensorRtEngine:
    options = TensorRtOptions(cache_dir=cache)
    declared = bundle.manifest.engines[0]
    return TensorRtEngine(bundle, declared, options, runtime=runtime, gpu=card)


def test_an_engine_for_this_gpu_is_loaded_and_gives_the_outputs(with_target: Bundle) -> None:
    card = FakeCudaDevice()
    runtime = FakeRuntime(FakePlan(card))
    engine = open_engine(with_target, card, runtime)
    assert (runtime.loaded, runtime.built) == ([PREBUILT], [])
    np.testing.assert_array_equal(engine.infer(noise(1, 3)), model_outputs(noise(1, 3)))
    assert all(verdict.passed for verdict in run_golden(with_target, engine))
    assert (engine.name, engine.compute_device, engine.max_batch) == (TRT, "GPU: Fake 4000", 1)
    engine.close()
    engine.close()
    assert (card.memory, card.streams, card.closed, card.users) == ({}, {}, 1, 0)
    with pytest.raises(EngineFailed, match="is closed"):
        engine.infer(noise(1))


def test_for_another_gpu_the_graph_is_compiled_and_cached(
    with_target: Bundle, tmp_path: Path
) -> None:
    for builds in (1, 0):
        card = FakeCudaDevice(capability="9.0")
        runtime = FakeRuntime(FakePlan(card))
        open_engine(with_target, card, runtime, tmp_path / "cache").close()
        assert runtime.built == [transparent_onnx()] * builds
        assert runtime.loaded == [b"built here"]
    card = FakeCudaDevice(capability="9.0", name="Fake 5000")
    runtime = FakeRuntime(FakePlan(card))
    open_engine(with_target, card, runtime, tmp_path / "cache").close()
    assert len(runtime.built) == 1


def test_a_cached_engine_that_is_refused_is_compiled_again(
    with_target: Bundle, tmp_path: Path
) -> None:
    card = FakeCudaDevice(capability="9.0")
    open_engine(with_target, card, FakeRuntime(FakePlan(card)), tmp_path / "cache").close()
    card = FakeCudaDevice(capability="9.0")
    runtime = FakeRuntime(FakePlan(card), refused=frozenset({b"built here"}))
    with pytest.raises(EngineFailed, match="made for another card"):
        open_engine(with_target, card, runtime, tmp_path / "cache")
    assert len(runtime.built) == 1
    assert (card.closed, card.users, card.memory) == (1, 0, {})


@pytest.mark.parametrize(
    ("changes", "capability", "fits"),
    [
        ({}, "8.6", True),
        ({}, "8.0", False),
        ({"version": "1.2.4"}, "8.6", False),
        ({"package": "tensorrt"}, "8.6", False),
    ],
)
def test_an_engine_fits_one_package_one_version_and_stated_capabilities(
    changes: dict[str, Any], capability: str, fits: bool
) -> None:
    runtime = FakeRuntime(FakePlan(FakeCudaDevice()))
    built_for = target(**changes)
    assert (find_target(tensorrt(built_for), runtime, capability) is built_for) == fits


def test_a_batch_is_computed_in_as_few_runs_as_possible(with_target: Bundle) -> None:
    card = FakeCudaDevice()
    plan = FakePlan(card, OPEN_PORTS, max_batch=4)
    engine = open_engine(with_target, card, FakeRuntime(plan))
    assert engine.max_batch == 4
    assert plan.runs == [1, 2, 3, 4]  # All sizes are tried before the first image.
    plan.runs.clear()
    assert all(verdict.passed for verdict in run_golden(with_target, engine))
    cases = len(with_target.golden.cases)
    assert plan.runs == [1] * cases + [min(4, cases)]
    plan.runs.clear()
    np.testing.assert_array_equal(engine.infer(noise(1, 6)), model_outputs(noise(1, 6)))
    assert plan.runs == [4, 2]
    engine.close()
    assert card.memory == {}


WRONG = {
    "another size": (replace(PORTS[0], shape=(1, 1, 32, 32)), PORTS[1]),
    "floats in": (replace(PORTS[0], dtype="float32"), PORTS[1]),
    "halves out": (PORTS[0], replace(PORTS[1], dtype="float16")),
    "other rows": (PORTS[0], replace(PORTS[1], shape=(1, 5, 9))),
    "two outputs": (*PORTS, PORTS[1]),
    "one answer for any number": (OPEN_PORTS[0], PORTS[1]),
    "any number of anchors": (PORTS[0], replace(PORTS[1], shape=(1, ROWS, ANY))),
    "pairs only": (replace(PORTS[0], shape=(2, 1, SIZE, SIZE)), PORTS[1]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_plan_of_another_form_is_refused_and_nothing_leaks(
    case: str, with_target: Bundle
) -> None:
    card = FakeCudaDevice()
    with pytest.raises(BundleInvalid, match=r"the model('s (in|out)puts are| takes)"):
        open_engine(with_target, card, FakeRuntime(FakePlan(card, WRONG[case])))
    assert (card.memory, card.streams, card.closed, card.users) == ({}, {}, 1, 0)


def test_a_refusal_and_outputs_that_are_not_finite_are_errors(with_target: Bundle) -> None:
    for plan, message in (
        (FakePlan(FakeCudaDevice(), refuses=True), "did not accept the images"),
        (FakePlan(FakeCudaDevice(), spoilt=True), "not finite"),
    ):
        with pytest.raises(EngineFailed, match=message):
            open_engine(with_target, plan.card, FakeRuntime(plan))
        assert (plan.card.memory, plan.card.closed) == ({}, 1)


@pytest.mark.parametrize(
    "batch",
    [noise(1)[:, :, :32], noise(1).astype(np.float32), noise(1)[:0]],
    ids=["another size", "floats", "empty"],
)
def test_a_batch_of_another_form_is_refused(batch: Any, with_target: Bundle) -> None:
    card = FakeCudaDevice()
    engine = open_engine(with_target, card, FakeRuntime(FakePlan(card)))
    with pytest.raises(EngineFailed, match="takes u8"):
        engine.infer(batch)
    engine.close()


def test_a_variant_for_another_runtime_is_refused(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path / "a.bundle", variant(bundles.VARIANT))
    card = FakeCudaDevice()
    with pytest.raises(BundleInvalid, match="is for openvino, not for TensorRT"):
        open_engine(bundle, card, FakeRuntime(FakePlan(card)))


def test_without_tensorrt_there_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.engines.runtimes.tensorrt_runtime.find_spec", lambda name: None)
    with pytest.raises(EngineFailed, match="TensorRT is not installed") as caught:
        open_runtime()
    assert "extra `tensorrt`" in caught.value.hint
    with pytest.raises(EngineFailed, match="tensorrt_rtx is not installed"):
        open_runtime("tensorrt_rtx")


def test_an_engine_closes_even_if_its_gpu_refuses_every_call(
    with_target: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one failed kernel, CUDA returns its error from every call."""
    card = FakeCudaDevice()
    engine = open_engine(with_target, card, FakeRuntime(FakePlan(card)))

    def refuse(*_: object) -> None:
        raise EngineFailed("CUDA refused: CUDA_ERROR_ILLEGAL_ADDRESS")

    for call in ("free", "end_stream", "close"):
        monkeypatch.setattr(card, call, refuse)
    engine.close()
    engine.close()
    with pytest.raises(EngineFailed, match="is closed"):
        engine.infer(noise(1))
