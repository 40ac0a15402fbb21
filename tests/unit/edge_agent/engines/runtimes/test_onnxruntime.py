"""The ONNX Runtime engine with a model whose outputs are its input's pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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


def test_it_passes_the_golden_cases(onnx_bundle: Bundle) -> None:
    assert [verdict.passed for verdict in run_golden(onnx_bundle, engine_of(onnx_bundle))] == [
        True,
        True,
    ]


def test_a_graph_of_one_image_runs_one_at_a_time(onnx_bundle: Bundle) -> None:
    assert engine_of(onnx_bundle).max_batch == 1


@pytest.mark.parametrize("count", [1, 3, 8, 19])
def test_a_graph_of_any_batch_runs_several_images_at_once(tmp_path: Path, count: int) -> None:
    bundle = bundle_with(tmp_path / "a.bundle", variant(ORT), onnx=transparent_onnx(images="batch"))
    engine = engine_of(bundle)
    assert engine.max_batch == 8
    np.testing.assert_allclose(
        engine.infer(noise(5, count)), model_outputs(noise(5, count)), atol=1e-6
    )


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


def test_waiting_threads_do_not_spin(onnx_bundle: Bundle) -> None:
    engine = engine_of(onnx_bundle, OnnxRuntimeOptions(threads=4, streams=2))
    assert engine._session is not None
    options = engine._session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.inter_op.allow_spinning") == "0"
    assert options.intra_op_num_threads == 2
