"""All engines give the same findings with the starter's network."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.core.findings import BOX_ROWS
from edge_agent.engines.bundle import Bundle, starter_bundle_path
from edge_agent.engines.golden import read_golden_image, run_golden
from edge_agent.engines.hardware import Hardware
from edge_agent.engines.runtimes.factory import open_engine
from edge_agent.errors import BundleInvalid
from tests.conftest import skip_or_fail

pytestmark = pytest.mark.slow

FP32, ORT = "openvino-fp32", "onnxruntime-fp32"


@pytest.fixture(scope="module")
def starter() -> Bundle:
    try:
        return Bundle.open(starter_bundle_path())
    except BundleInvalid as problem:
        skip_or_fail(problem.message)
        raise


def test_the_raw_outputs_of_openvino_and_onnxruntime_agree(starter: Bundle) -> None:
    openvino, onnxruntime = (
        open_engine(starter, starter.variant(name), threads=1) for name in (FP32, ORT)
    )
    compared = 0
    for case in starter.golden.cases:
        picture = read_golden_image(starter.read(case.image), starter.manifest.input)
        one, other = (it.infer(picture[None, None])[0] for it in (openvino, onnxruntime))
        np.testing.assert_allclose(one[BOX_ROWS:], other[BOX_ROWS:], atol=1e-3)
        likely = one[BOX_ROWS:].max(axis=0) >= starter.manifest.head.score_floor
        compared += int(likely.sum())
        np.testing.assert_allclose(one[:BOX_ROWS, likely], other[:BOX_ROWS, likely], atol=0.5)
    assert compared > 0


def test_every_variant_gives_the_recorded_findings(starter: Bundle) -> None:
    flags = Hardware.detect().flags
    for variant in starter.manifest.engines:
        if variant.precision == "bf16" and not {"avx512_bf16", "amx_bf16"} & set(flags):
            continue
        engine = open_engine(starter, variant, threads=1)
        problems = [(it.case, it.problems) for it in run_golden(starter, engine) if not it.passed]
        assert problems == [], variant.name
        engine.close()
