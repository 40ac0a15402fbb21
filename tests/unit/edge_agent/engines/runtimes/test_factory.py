"""A runtime is imported only when one of its engines is opened."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from edge_agent.core.engine_selection import BatchPolicy
from edge_agent.engines.runtimes.factory import open_engine, runtime_version
from edge_agent.engines.runtimes.onnxruntime import OnnxRuntimeEngine
from edge_agent.engines.runtimes.openvino import OpenVinoEngine
from edge_agent.errors import BundleInvalid
from tests.support.engines.variants import (
    ORT,
    bundle_with,
    model_outputs,
    noise,
    variant,
)


def test_selecting_an_engine_imports_no_runtime() -> None:
    script = (
        "import sys, edge_agent.engines.selection.select;"
        "import edge_agent.engines.runtimes.factory as r;"
        "assert r.runtime_version('openvino') and r.runtime_version('onnxruntime');"
        "print([name for name in r.KNOWN if name in sys.modules])"
    )
    completed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert completed.stdout == "[]\n"


def test_a_runtimes_version_is_that_of_its_package() -> None:
    assert runtime_version("openvino") == version("openvino")
    assert runtime_version("onnxruntime") == version("onnxruntime")


def test_tensorrt_needs_a_gpu_a_cuda_binding_and_a_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    factory = "edge_agent.engines.runtimes.factory."
    complete = {
        "list_nvidia_gpus": ("NVIDIA L4, driver 550.1",),
        "find_cuda_bindings": "cuda.bindings",
        "find_tensorrt_packages": {"tensorrt_rtx": "1.7.1", "other": "2"},
    }
    for name, value in complete.items():
        monkeypatch.setattr(factory + name, lambda value=value: value)
    assert runtime_version("tensorrt") == "tensorrt_rtx 1.7.1"
    for name, value in complete.items():
        monkeypatch.setattr(factory + name, lambda: ())
        assert runtime_version("tensorrt") is None
        monkeypatch.setattr(factory + name, lambda value=value: value)


def test_a_runtime_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.engines.runtimes.factory.find_spec", lambda name: None)
    assert runtime_version("openvino") is None


@pytest.mark.parametrize("parallel", [1, 2])
def test_each_variant_gets_the_engine_of_its_runtime(tmp_path: Path, parallel: int) -> None:
    bundle = bundle_with(tmp_path / "a.bundle", variant("openvino-fp32"), variant(ORT))
    batch = BatchPolicy(parallel_requests=parallel)
    for kind, declared in zip(
        (OpenVinoEngine, OnnxRuntimeEngine), bundle.manifest.engines, strict=True
    ):
        engine = open_engine(bundle, declared, threads=2, cache_dir=tmp_path / "cache", batch=batch)
        assert isinstance(engine, kind)
        np.testing.assert_allclose(engine.infer(noise(1, 2)), model_outputs(noise(1, 2)), atol=1e-6)
        engine.close()
    assert list((tmp_path / "cache").iterdir()) == [tmp_path / "cache" / "compiled"]


def test_a_runtime_without_an_engine_is_refused(tmp_path: Path) -> None:
    declared = variant("openvino-fp32")
    bundle = bundle_with(tmp_path / "a.bundle", declared)
    with pytest.raises(BundleInvalid, match="is for tpu"):
        open_engine(bundle, declared.model_copy(update={"runtime": "tpu"}))
