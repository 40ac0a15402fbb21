from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from edge_agent.app.model_service import ModelService
from edge_agent.config import Settings
from edge_agent.core.lifecycle import Lifecycle, Phase
from edge_agent.decoding.decoder import Decoder, ThreadDecoder
from edge_agent.errors import BundleInvalid, EngineFailed, NotReady
from edge_agent.imaging import Limits
from edge_agent.serving.detection import DetectionService
from tests.support.agents.tagged import eventually, fake_pipeline, settings


class Box:
    """A model service whose loading and self-test the test controls."""

    def __init__(self) -> None:
        self.lifecycle = Lifecycle()
        self.failure: Exception | None = None
        self.problem = ""
        self.loading = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.loaded: list[DetectionService] = []
        self.served: list[str] = []
        self.models = ModelService(
            settings(),
            self._load,
            ThreadDecoder(1, Limits()),
            self.lifecycle,
            on_load=self.loaded.append,
            on_serving=lambda model: self.served.append(model.digest),
        )

    def _load(self, agent_settings: Settings, decoder: Decoder) -> DetectionService:
        self.loading.set()
        assert self.go_on.wait(60)
        if self.failure is not None:
            raise self.failure
        return fake_pipeline(agent_settings, decoder, find_problem=lambda: self.problem)


@pytest.fixture
async def box() -> AsyncIterator[Box]:
    box = Box()
    yield box
    box.go_on.set()
    await box.models.stop()


async def test_a_model_that_passes_its_self_test_serves(box: Box) -> None:
    with pytest.raises(NotReady, match="loading"):
        box.models.require()
    await box.models.load()
    assert box.lifecycle.is_ready
    assert box.loaded == [box.models.require()]
    assert len(box.served) == 1


async def test_a_model_that_fails_its_self_test_serves_once_it_passes(box: Box) -> None:
    box.problem = "It answers wrongly."
    await box.models.load()
    assert (box.lifecycle.phase, box.served) == (Phase.UNHEALTHY, [])
    with pytest.raises(NotReady, match="answers wrongly"):
        box.models.require()
    box.problem = ""
    await box.models.recheck()
    assert box.lifecycle.is_ready
    box.problem = "It answers wrongly again."
    await box.models.recheck()
    assert "wrongly again" in box.lifecycle.reason


async def test_loading_is_tried_again_if_every_engine_failed(box: Box) -> None:
    box.failure = EngineFailed("No engine agrees.")
    await box.models.load()
    assert (box.lifecycle.reason, box.models.detection) == ("No engine agrees.", None)
    box.failure = None
    await box.models.recheck()
    assert box.lifecycle.is_ready


async def test_a_bundle_that_cannot_be_used_is_an_error(box: Box) -> None:
    box.failure = BundleInvalid("It is damaged.")
    with pytest.raises(BundleInvalid):
        await box.models.load()
    assert box.lifecycle.is_starting


async def test_stop_cancels_loading_and_leaves_the_thread_to_its_end(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.app.model_service.CANCEL_TIMEOUT_S", 0.01)
    box.go_on.clear()
    loading = asyncio.create_task(box.models.load())
    assert await asyncio.to_thread(box.loading.wait, 60)
    await box.models.stop()
    assert box.models.is_busy
    assert not loading.done()
    box.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await loading
    await eventually(lambda: not box.models.is_busy)
    assert box.lifecycle.is_starting
