"""What holds for OpenVINO and ONNX Runtime alike, with a model whose outputs are its pixels."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Thread

import numpy as np
import pytest

from edge_agent.engines.base import Engine
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.runtimes.onnxruntime import OnnxRuntimeEngine, OnnxRuntimeOptions
from edge_agent.engines.runtimes.openvino import OpenVinoEngine, OpenVinoOptions
from edge_agent.errors import EngineFailed
from tests.support.engines.variants import (
    ORT,
    bundle_with,
    model_outputs,
    noise,
    variant,
)

OPENVINO = "openvino-fp32"
Build = Callable[[Bundle], Engine]


def openvino(requests: int = 1) -> Build:
    options = OpenVinoOptions(threads=1, inference_precision="f32", requests=requests)
    return lambda bundle: OpenVinoEngine(bundle, bundle.variant(OPENVINO), options)


def onnxruntime(threads: int = 1, streams: int = 1) -> Build:
    options = OnnxRuntimeOptions(threads=threads, streams=streams)
    return lambda bundle: OnnxRuntimeEngine(bundle, bundle.variant(ORT), options)


BUILDERS = {OPENVINO: openvino(), ORT: onnxruntime()}
CONCURRENT = {
    "openvino, requests by default": openvino(0),
    "openvino, 1 request": openvino(1),
    "openvino, 3 requests": openvino(3),
    "onnxruntime, 1 stream": onnxruntime(),
    "onnxruntime, 2 streams": onnxruntime(2, 2),
}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("bundle") / "a.bundle"
    return bundle_with(path, variant(OPENVINO), variant(ORT))


@pytest.fixture(params=BUILDERS)
def engine(both: Bundle, request: pytest.FixtureRequest) -> Engine:
    return BUILDERS[request.param](both)


def test_outputs_are_the_models(engine: Engine) -> None:
    assert engine.compute_device.startswith("CPU: ")
    for count in (1, 3):
        outputs = engine.infer(noise(count, count))
        assert outputs.dtype == np.float32
        np.testing.assert_allclose(outputs, model_outputs(noise(count, count)), atol=1e-6)


@pytest.mark.parametrize("name", BUILDERS)
def test_an_engine_has_its_variants_name(both: Bundle, name: str) -> None:
    assert BUILDERS[name](both).name == name


def test_a_batch_need_not_be_contiguous(engine: Engine) -> None:
    wide = np.repeat(noise(4), 2, axis=3)[..., ::2]
    np.testing.assert_allclose(engine.infer(wide), model_outputs(wide), atol=1e-6)


def test_outputs_belong_to_the_caller(engine: Engine) -> None:
    kept = engine.infer(noise(1))
    engine.infer(noise(2))
    np.testing.assert_allclose(kept, model_outputs(noise(1)), atol=1e-6)
    kept[:] = 0


@pytest.mark.parametrize("options", CONCURRENT)
def test_many_threads_get_their_own_outputs(both: Bundle, options: str) -> None:
    engine = CONCURRENT[options](both)
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
def test_a_wrong_batch_is_refused_and_the_next_answered(engine: Engine, case: str) -> None:
    with pytest.raises(EngineFailed, match="takes u8"):
        engine.infer(WRONG[case])
    np.testing.assert_allclose(engine.infer(noise(1)), model_outputs(noise(1)), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "build"), [(OPENVINO, openvino(2)), (ORT, onnxruntime())], ids=[OPENVINO, ORT]
)
def test_after_close_every_call_is_an_error(both: Bundle, name: str, build: Build) -> None:
    engine = build(both)
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
    assert [error.message for error in problems] == [f"{name} is closed"] * 4
    engine.close()
    with pytest.raises(EngineFailed, match="is closed"):
        engine.infer(noise(1))
