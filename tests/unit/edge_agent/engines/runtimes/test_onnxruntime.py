"""The ONNX Runtime engine with a model whose outputs are its input's pixels."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import pytest

from edge_agent.engines.base import Engine
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.golden import run_golden
from edge_agent.engines.runtimes.onnxruntime import OnnxRuntimeEngine, OnnxRuntimeOptions
from edge_agent.errors import BundleInvalid, EngineFailed
from hilum.manifest import InputSpec
from tests.support.engines import bundles
from tests.support.engines.variants import (
    ORT,
    bundle_with,
    model_outputs,
    noise,
    transparent_onnx,
    variant,
)

OPTIONS = OnnxRuntimeOptions(threads=1)


@pytest.fixture(scope="module")
def onnx_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_with(tmp_path_factory.mktemp("bundle") / "a.bundle", variant(ORT))


def engine_of(bundle: Bundle, options: OnnxRuntimeOptions = OPTIONS) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(bundle, bundle.variant(ORT), options)


def test_outputs_are_the_models(onnx_bundle: Bundle) -> None:
    engine: Engine = engine_of(onnx_bundle)
    assert engine.name == ORT
    assert engine.compute_device.startswith("CPU: ")
    assert engine.max_batch == 1
    for count in (1, 3):
        outputs = engine.infer(noise(count, count))
        assert outputs.dtype == np.float32
        np.testing.assert_allclose(outputs, model_outputs(noise(count, count)), atol=1e-6)


def test_it_passes_the_golden_cases(onnx_bundle: Bundle) -> None:
    assert [verdict.passed for verdict in run_golden(onnx_bundle, engine_of(onnx_bundle))] == [
        True,
        True,
    ]


@pytest.mark.parametrize("count", [1, 3, 8, 19])
def test_a_graph_of_any_batch_runs_several_images_at_once(tmp_path: Path, count: int) -> None:
    bundle = bundle_with(tmp_path / "a.bundle", variant(ORT), onnx=transparent_onnx(images="batch"))
    engine = engine_of(bundle)
    assert engine.max_batch == 8
    np.testing.assert_allclose(
        engine.infer(noise(5, count)), model_outputs(noise(5, count)), atol=1e-6
    )


def test_a_batch_need_not_be_contiguous(onnx_bundle: Bundle) -> None:
    wide = np.repeat(noise(4), 2, axis=3)[..., ::2]
    np.testing.assert_allclose(engine_of(onnx_bundle).infer(wide), model_outputs(wide), atol=1e-6)


def test_outputs_belong_to_the_caller(onnx_bundle: Bundle) -> None:
    engine = engine_of(onnx_bundle)
    kept = engine.infer(noise(1))
    engine.infer(noise(2))
    np.testing.assert_allclose(kept, model_outputs(noise(1)), atol=1e-6)
    kept[:] = 0


@pytest.mark.parametrize("options", [OPTIONS, OnnxRuntimeOptions(threads=2, streams=2)])
def test_many_threads_get_their_own_outputs(
    onnx_bundle: Bundle, options: OnnxRuntimeOptions
) -> None:
    engine = engine_of(onnx_bundle, options)
    together = Barrier(8)

    def infer(thread: int) -> bool:
        together.wait()
        return all(
            np.allclose(engine.infer(batch), model_outputs(batch), atol=1e-6)
            for batch in (noise(100 * thread + k) for k in range(20))
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(infer, range(8)))


WRONG = {
    "no images": np.zeros((0, 1, 96, 96), np.uint8),
    "three channels": np.zeros((1, 3, 96, 96), np.uint8),
    "another size": np.zeros((1, 1, 96, 64), np.uint8),
    "no batch": np.zeros((1, 96, 96), np.uint8),
    "floats": np.zeros((1, 1, 96, 96), np.float32),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_batch_is_refused_and_the_next_answered(onnx_bundle: Bundle, case: str) -> None:
    engine = engine_of(onnx_bundle)
    with pytest.raises(EngineFailed, match="takes u8"):
        engine.infer(WRONG[case])
    np.testing.assert_allclose(engine.infer(noise(1)), model_outputs(noise(1)), atol=1e-6)


def test_outputs_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path / "a.bundle", variant(ORT), onnx=transparent_onnx(log=True))
    engine = engine_of(bundle)  # The grey warm-up picture has finite logarithms.
    with pytest.raises(EngineFailed, match="not finite"):
        engine.infer(np.zeros((1, 1, 96, 96), np.uint8))


def test_a_model_that_differs_from_the_manifest_is_refused(
    onnx_bundle: Bundle, tmp_path: Path
) -> None:
    fewer = bundle_with(tmp_path / "a.bundle", variant(ORT), onnx=transparent_onnx(rows=9))
    with pytest.raises(BundleInvalid, match=r"outputs are float32 \(1, 9, 1024\), not .*18"):
        engine_of(fewer)
    pairs = bundle_with(tmp_path / "b.bundle", variant(ORT), onnx=transparent_onnx(images=2))
    with pytest.raises(BundleInvalid, match="batches of one fixed size"):
        engine_of(pairs)
    members = {name: onnx_bundle.read(name) for name in onnx_bundle.manifest.files}
    larger = bundles.manifest(
        members, engines=(variant(ORT),), input=InputSpec(height=128, width=96)
    )
    other = Bundle.open(bundles.pack(tmp_path / "c.bundle", members, larger.to_bytes()))
    with pytest.raises(BundleInvalid, match=r"inputs are uint8 \(1, 1, 96, 96\), not uint8"):
        engine_of(other)


def test_a_failure_of_the_runtime_is_an_engine_error(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path / "a.bundle", variant(ORT), onnx=b"no graph")
    with pytest.raises(EngineFailed, match="ONNX Runtime could not load the model"):
        engine_of(bundle)


def test_a_variant_of_another_runtime_is_refused(onnx_bundle: Bundle) -> None:
    with pytest.raises(BundleInvalid, match="is for openvino, not for ONNX Runtime"):
        OnnxRuntimeEngine(onnx_bundle, variant("openvino-fp32"), OPTIONS)


def test_after_close_every_call_is_an_error(onnx_bundle: Bundle) -> None:
    engine = engine_of(onnx_bundle)
    problems: list[EngineFailed] = []
    started = Barrier(5)

    def infer() -> None:
        started.wait()
        try:
            while True:
                np.testing.assert_allclose(
                    engine.infer(noise(1)), model_outputs(noise(1)), atol=1e-6
                )
        except EngineFailed as error:
            problems.append(error)

    threads = [Thread(target=infer) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    engine.close()
    for thread in threads:
        thread.join(timeout=30)
    assert [error.message for error in problems] == [f"{ORT} is closed"] * 4
    engine.close()
    with pytest.raises(EngineFailed, match="is closed"):
        engine.infer(noise(1))


def test_waiting_threads_do_not_spin(onnx_bundle: Bundle) -> None:
    engine = engine_of(onnx_bundle, OnnxRuntimeOptions(threads=4, streams=2))
    assert engine._session is not None
    options = engine._session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.inter_op.allow_spinning") == "0"
    assert options.intra_op_num_threads == 2
