"""A decoder that detection and rendering share: deadlines hold while it is busy."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import cv2
import numpy as np
import pytest

from edge_agent.core.radiograph import Radiograph
from edge_agent.core.study_context import StudyContext
from edge_agent.decoding import decoder
from edge_agent.decoding.decoder import ThreadDecoder
from edge_agent.errors import DeadlineExceeded
from edge_agent.imaging import Limits, read_study
from edge_agent.serving.render import MAX_SIDE, Renderer
from edge_agent.serving.types import DetectionRequest
from tests.support.agents.tagged import SIDE, fake_pipeline, in_flight, settings, tagged_png

FIT = (SIDE, SIDE)


class HeldReader:
    """Reads like `read_study`, but an image to render only after the test sets `free`."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.free = threading.Event()
        self.read: list[tuple[int, int]] = []

    def __call__(
        self, data: bytes, *, limits: Limits, fit: tuple[int, int]
    ) -> tuple[Radiograph, StudyContext]:
        self.read.append(fit)
        if fit == (MAX_SIDE, MAX_SIDE):
            self.started.set()
            assert self.free.wait(60)
        return read_study(data, limits=limits, fit=fit)


@asynccontextmanager
async def rendering(held: HeldReader) -> AsyncIterator[ThreadDecoder]:
    """A decoder of one thread, which is busy with an image to render."""
    decoder = ThreadDecoder(1, Limits())
    rendered = asyncio.create_task(Renderer(decoder).render(tagged_png(150)))
    try:
        assert await asyncio.to_thread(held.started.wait, 60)
        yield decoder
    finally:
        held.free.set()
        image = cv2.imdecode(np.frombuffer(await rendered, np.uint8), cv2.IMREAD_UNCHANGED)
        await decoder.close()
        assert image.shape == FIT


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> HeldReader:
    held = HeldReader()
    monkeypatch.setattr(decoder, "read_study", held)
    return held


async def test_a_deadline_passes_for_a_request_that_waits_behind_a_rendering(
    held: HeldReader,
) -> None:
    async with rendering(held) as decoder:
        pipeline = fake_pipeline(settings(), decoder)
        soon = asyncio.get_running_loop().time() + 0.05
        with pytest.raises(DeadlineExceeded):
            await pipeline.detect(DetectionRequest("", tagged_png(200), deadline=soon))
        assert in_flight(pipeline) == 0
        assert held.read == [(MAX_SIDE, MAX_SIDE)], "it was never decoded"
        held.free.set()
        assert (await pipeline.detect(DetectionRequest("", tagged_png(201)))).findings
        await pipeline.close()


async def test_a_request_that_is_cancelled_while_it_waits_ends_at_once(held: HeldReader) -> None:
    async with rendering(held) as decoder:
        waiting = asyncio.create_task(decoder.decode(tagged_png(150), FIT))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        held.free.set()
        assert (await decoder.decode(tagged_png(150), FIT)).pixels.shape == FIT
