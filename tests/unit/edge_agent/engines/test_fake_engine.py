"""The fake engine finds what is painted into an image."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.core.findings import Box, Finding, decode_findings
from edge_agent.core.geometry import Letterbox
from edge_agent.engines.base import Engine
from edge_agent.errors import EngineFailed
from hilum.manifest import HeadSpec
from tests.support.engines.fake_engine import QUIET, FakeEngine, paint


def test_each_image_gets_its_own_finding() -> None:
    engine: Engine = FakeEngine(64, 32)
    whole = Letterbox.fit(64, 32, 64, 32)
    tags = [(value, (value % 7, 5, 20 + value % 9, 60)) for value in range(QUIET + 1, 256)]
    batch = np.stack([paint(64, 32, value, box)[None] for value, box in tags])
    for (value, box), outputs in zip(tags, engine.infer(batch), strict=True):
        assert decode_findings(outputs, whole, HeadSpec(), [0.3] * 14) == (
            Finding(value % 14, float(np.float32(value / 255)), Box(*box)),
        )


def test_padding_is_no_finding() -> None:
    assert not FakeEngine(32, 32).infer(np.full((1, 1, 32, 32), QUIET, np.uint8)).any()


def test_the_fake_engine_raises_the_errors_of_a_real_engine() -> None:
    def fail(batch: np.ndarray) -> None:
        raise EngineFailed("on purpose")

    with pytest.raises(EngineFailed, match="on purpose"):
        FakeEngine(32, 32, before=fail).infer(np.zeros((1, 1, 32, 32), np.uint8))
    engine = FakeEngine(32, 32)
    with pytest.raises(EngineFailed, match="a batch of uint8"):
        engine.infer(np.zeros((1, 1, 32, 64), np.uint8))
    engine.close()
    with pytest.raises(EngineFailed, match="is closed"):
        engine.infer(np.zeros((1, 1, 32, 32), np.uint8))
