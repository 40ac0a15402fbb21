"""64-megapixel images that arrive together: the memory of decoding is bounded by the pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import cv2
import pytest

from edge_agent.core.admission import Priority
from edge_agent.decoding.decoder import SandboxedDecoder
from edge_agent.decoding.pool import DecodePolicy
from edge_agent.errors import StudyImageRefused
from edge_agent.imaging import Limits
from edge_agent.serving.detection import DetectionService
from edge_agent.serving.types import DetectionRequest, DetectionResult
from hilum.codes import ErrorCode
from tests.support.agents.tagged import SIDE, SQUARE, fake_pipeline, settings, tagged_png
from tests.support.engines.fake_engine import paint

pytestmark = pytest.mark.slow

WORKERS = 2
ENOUGH, TOO_LITTLE = 96 << 20, 32 << 20
LARGE_SIDE = 8000
MANY = 8
STARTED = WORKERS + 2
"""Requests that a service has started: one in each decoder, one in the engine, one next."""


def large_png(tag: int) -> bytes:
    """A tagged image of 64 megapixels: a small file, 64 MB of pixels."""
    size = (LARGE_SIDE, LARGE_SIDE)
    pixels = cv2.resize(paint(SIDE, SIDE, tag, SQUARE), size, interpolation=cv2.INTER_NEAREST)
    return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


@asynccontextmanager
async def running_service(
    memory_bytes: int,
) -> AsyncIterator[tuple[DetectionService, SandboxedDecoder]]:
    decoder = SandboxedDecoder(Limits(), DecodePolicy(WORKERS, 60.0, memory_bytes))
    await decoder.start()
    service = fake_pipeline(settings(), decoder)
    try:
        yield service, decoder
    finally:
        await service.close()
        await decoder.close()


def peak_kb(pid: int) -> int:
    """Return the peak resident memory of a process in kB."""
    (line,) = (
        line
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        if line.startswith("VmHWM:")
    )
    return int(line.split()[1])


def tag_of(answer: DetectionResult) -> int:
    return round(answer.findings[0].score * 255)


@pytest.mark.slow
async def test_no_more_images_are_decoded_than_the_decoders_memory_holds() -> None:
    large = {tag: large_png(tag) for tag in range(150, 150 + MANY)}
    ended: list[int] = []
    async with running_service(ENOUGH) as (service, decoder):

        async def detect(tag: int, image: bytes, priority: Priority = Priority.ROUTINE) -> None:
            answer = await service.detect(DetectionRequest(str(tag), image, priority=priority))
            assert tag_of(answer) == tag
            ended.append(tag)

        pids = decoder.stats().pids
        before_kb = sum(map(peak_kb, pids))
        routine = [asyncio.create_task(detect(tag, image)) for tag, image in large.items()]
        await asyncio.sleep(0)  # They are in the queue.
        await asyncio.gather(*routine, detect(200, tagged_png(200), Priority.STAT))
        assert decoder.stats().pids == pids, "no decoder was lost"
        used_bytes = (sum(map(peak_kb, pids)) - before_kb) << 10
    assert LARGE_SIDE**2 < used_bytes <= WORKERS * ENOUGH < MANY * LARGE_SIDE**2
    assert ended.index(200) <= STARTED < MANY, (
        "a small urgent image waits for none that had not started"
    )


@pytest.mark.slow
async def test_an_image_beyond_a_decoders_memory_is_refused_others_are_answered() -> None:
    async with running_service(TOO_LITTLE) as (service, decoder):
        requests = [DetectionRequest("", large_png(150))] * WORKERS
        requests += [DetectionRequest("", tagged_png(tag)) for tag in range(160, 170)]
        ends = await asyncio.gather(*map(service.detect, requests), return_exceptions=True)
        assert decoder.stats().replaced == 0
    refused, answered = ends[:WORKERS], ends[WORKERS:]
    for error in refused:
        assert isinstance(error, StudyImageRefused)
        assert error.code is ErrorCode.TOO_LARGE
    assert [tag_of(it) for it in answered if isinstance(it, DetectionResult)] == [*range(160, 170)]
