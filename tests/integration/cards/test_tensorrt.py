"""TensorRT on a real GPU; skipped, and so untested, where there is none.

.venv/bin/python -m pytest tests/integration/cards/test_tensorrt.py -rs
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_agent.core.findings import BOX_ROWS
from edge_agent.engines.base import MAX_BATCH
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.golden import run_golden
from edge_agent.engines.runtimes.factory import open_engine, runtime_version
from edge_agent.engines.selection.select import select_engine
from tests.support.training.exported_runs import exportable, toy_parts
from tests.support.training.models import random_detector
from training.bundle.measuring import measuring_engine
from training.bundle.variants import TRT_FP16, TRT_INT8
from training.bundle.writer import write_bundle
from training.config import load_config
from training.workflow import export, parity_check, quantization

pytestmark = [
    pytest.mark.training,
    pytest.mark.skipif(
        runtime_version("tensorrt") is None,
        reason="no NVIDIA GPU with driver, TensorRT and cuda-python: TensorRT is NOT tested here",
    ),
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("card")
    config = load_config(exportable(folder / "toy", random_detector()))
    export.export_graphs(config)
    quantized = quantization.quantize_graphs(config)
    result = parity_check.check_parity(config)
    return write_bundle(folder / "a.bundle", toy_parts(config, quantized, result))


@pytest.mark.parametrize("name", [TRT_FP16, TRT_INT8])
def test_the_gpu_gives_the_processors_findings(name: str, bundle: Bundle, tmp_path: Path) -> None:
    variant = bundle.variant(name)
    engine = open_engine(bundle, variant, cache_dir=tmp_path)
    processor = measuring_engine(bundle, variant)
    rng = np.random.default_rng(1)
    spec = bundle.manifest.input
    batch = rng.integers(0, 256, (4, 1, spec.height, spec.width), dtype=np.uint8)
    on_card, on_processor = engine.infer(batch), processor.infer(batch)
    assert engine.compute_device.startswith("GPU: ")
    assert np.abs(on_card[:, BOX_ROWS:] - on_processor[:, BOX_ROWS:]).mean() < 0.02
    assert [verdict for verdict in run_golden(bundle, engine) if not verdict.passed] == []
    assert engine.max_batch == MAX_BATCH
    np.testing.assert_array_equal(engine.infer(batch), on_card)
    # TensorRT may choose other kernels for another number of images.
    again = engine.infer(batch[2:3])
    assert np.abs(again[:, BOX_ROWS:] - on_card[2:3, BOX_ROWS:]).max() < 0.02
    engine.close()


def test_the_agent_measures_the_gpu_and_the_processor(bundle: Bundle, tmp_path: Path) -> None:
    choice = select_engine(bundle, tmp_path)
    by_variant = {it.variant: it for it in choice.measured}
    assert by_variant[TRT_FP16].median_ms is not None, by_variant[TRT_FP16].problem
    assert by_variant[TRT_INT8].median_ms is not None, by_variant[TRT_INT8].problem
