"""From the settings to a model that may answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_agent.app import models
from edge_agent.app.models import (
    build_decoder,
    describe_bundle,
    load_options,
    load_with_decoder,
    open_bundle,
    open_detection_service,
)
from edge_agent.config import Settings
from edge_agent.decoding.decoder import Decoder, SandboxedDecoder
from edge_agent.engines import loader
from edge_agent.engines.loader import LoadOptions
from edge_agent.errors import BundleInvalid, EngineFailed
from edge_agent.serving.detection import DetectionService
from edge_agent.serving.types import DetectionRequest
from tests.support.agents.tagged import SIDE, fake_pipeline, settings, tagged_png, write_toy_bundle
from tests.support.engines.fake_engine import FakeEngine

pytestmark = pytest.mark.slow


def test_the_settings_name_the_bundle_and_how_it_is_loaded(tmp_path: Path) -> None:
    configured = settings(
        bundle=write_toy_bundle(tmp_path / "toy.bundle"),
        cache_dir=tmp_path / "cache",
        engine={"variant": "openvino-fp32", "threads": 3},
    )
    facts = describe_bundle(configured)
    bundle = open_bundle(configured)
    assert facts["digest"] == bundle.digest
    assert facts["engines"] == facts["runnable_engines"] == ["openvino-fp32"]
    points = dict(bundle.variant("openvino-fp32").operating_points)
    assert facts["operating_points"] == {"openvino-fp32": points}
    assert load_options(configured) == LoadOptions(tmp_path / "cache", "openvino-fp32", 3)


def test_a_shipped_bundle_is_opened_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = write_toy_bundle(tmp_path / "starter-toy-1.0.0.bundle")
    monkeypatch.setattr(models, "shipped_bundles", lambda: {"starter-toy": shipped})
    assert open_bundle(settings(bundle=Path("starter-toy"))).path == shipped
    with pytest.raises(BundleInvalid, match="starter-toys"):
        open_bundle(settings(bundle=Path("starter-toys")))


async def test_a_load_that_fails_leaves_the_decoder_usable() -> None:
    configured = settings(decode={"workers": 1})
    decoder = build_decoder(configured)

    def fail(settings: Settings, decoder: Decoder) -> DetectionService:
        raise EngineFailed("no engine agrees")

    try:
        for _ in range(2):
            with pytest.raises(EngineFailed):
                await load_with_decoder(configured, fail, decoder)
        service = await load_with_decoder(configured, fake_pipeline, decoder)
        answer = await service.detect(DetectionRequest("", tagged_png(200)))
        assert answer.findings
        assert isinstance(decoder, SandboxedDecoder)
        assert len(decoder.stats().pids) == 1
    finally:
        await decoder.close()


async def test_a_service_without_a_server_runs_the_golden_cases_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured = settings(
        bundle=write_toy_bundle(tmp_path / "toy.bundle"), cache_dir=tmp_path / "cache"
    )
    async with open_detection_service(configured) as service:
        assert (await service.detect(DetectionRequest("", tagged_png(200)))).findings
    wrong = FakeEngine(SIDE, SIDE, name="openvino-fp32")  # It finds another class than recorded.
    monkeypatch.setattr(loader, "open_engine", lambda *_, **__: wrong)
    with pytest.raises(EngineFailed, match="does not answer the bundle's golden cases") as caught:
        async with open_detection_service(configured):
            pytest.fail("the service must not be opened")
    assert caught.value.hint
    with pytest.raises(EngineFailed, match="is closed"):
        wrong.infer(np.zeros((1, 1, SIDE, SIDE), np.uint8))
