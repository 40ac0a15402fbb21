"""Detection without a transport: admission, deadlines, cancellation, identity of results."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from edge_agent.core.radiograph import Radiograph
from edge_agent.core.study_context import StudyContext
from edge_agent.engines.base import Pixels
from edge_agent.errors import (
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    Overloaded,
    StudyImageRefused,
)
from edge_agent.serving.detection import DetectionService
from edge_agent.serving.grpc import converters
from edge_agent.serving.types import DetectionRequest, DetectionResult
from hilum.codes import ErrorCode
from tests.support.agents.tagged import (
    DIGEST,
    SIDE,
    SQUARE,
    Latch,
    eventually,
    fake_pipeline,
    in_flight,
    settings,
    tagged_png,
)
from tests.support.engines.fake_engine import FakeEngine
from tests.support.images.facts import image_facts


@asynccontextmanager
async def piped(
    engine: Any = None, infer_concurrency: int = 1, **limits: int
) -> AsyncIterator[DetectionService]:
    service = fake_pipeline(
        settings(limits=limits), None, engine, infer_concurrency=infer_concurrency
    )
    try:
        yield service
    finally:
        await service.close()


def request(tag: int, **changes: Any) -> DetectionRequest:
    return DetectionRequest(**{"request_id": str(tag), "image": tagged_png(tag)} | changes)


def tag_of(answer: DetectionResult) -> int:
    (finding,) = answer.findings
    return round(finding.score * 255)


async def test_a_result_has_findings_and_names_its_model() -> None:
    async with piped() as service:
        answer = await service.detect(request(200))
    (finding,) = answer.findings
    assert finding.index == 200 % 14
    assert finding.score == pytest.approx(200 / 255)
    box = finding.box
    assert (box.x_min, box.y_min, box.x_max, box.y_max) == pytest.approx(SQUARE)
    assert answer.request_id == "200"
    assert (answer.bundle_digest, answer.engine) == (DIGEST, "fake")
    assert (answer.image.rows, answer.image.columns, answer.image.format) == (SIDE, SIDE, "png")
    spent = answer.timings
    parts = spent.decode_ms + spent.queue_ms + spent.infer_ms + spent.postprocess_ms
    assert min(spent.decode_ms, spent.infer_ms, spent.postprocess_ms) > 0
    assert parts <= spent.total_ms


async def test_no_findings_are_a_result_and_a_failure_is_an_error() -> None:
    async with piped() as service:
        assert (await service.detect(request(120, score_threshold=0.9))).findings == ()
        with pytest.raises(StudyImageRefused) as caught:
            await service.detect(request(120, image=b"no image at all"))
        assert caught.value.code is ErrorCode.NOT_AN_IMAGE
        with pytest.raises(StudyImageRefused):
            await service.detect(request(120, image=b""))
        assert in_flight(service) == 0


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.0001, math.nan, math.inf])
async def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    async with piped() as service:
        with pytest.raises(InvalidRequest, match="threshold"):
            await service.detect(request(200, score_threshold=threshold))


async def test_a_threshold_replaces_the_operating_points() -> None:
    async with piped() as service:
        kept = await service.detect(request(200, score_threshold=200 / 255 - 0.01))
        dropped = await service.detect(request(200, score_threshold=200 / 255 + 0.01))
    assert (len(kept.findings), len(dropped.findings)) == (1, 0)


async def test_a_request_id_of_129_characters_is_refused() -> None:
    async with piped() as service:
        assert (await service.detect(request(200, request_id="x" * 128))).findings
        with pytest.raises(InvalidRequest, match="129 characters"):
            await service.detect(request(200, request_id="x" * 129))


async def test_a_request_is_refused_at_once_if_the_queue_is_full() -> None:
    latch = Latch()
    async with piped(FakeEngine(SIDE, SIDE, before=latch), queue_size=2) as service:
        first = asyncio.create_task(service.detect(request(150)))
        await latch.wait_for_arrival(150)
        second = asyncio.create_task(service.detect(request(151)))
        await eventually(lambda: in_flight(service) == 2)
        with pytest.raises(Overloaded):
            await service.detect(request(152))
        assert not first.done()
        latch.release(150, 151)
        assert [tag_of(await task) for task in (first, second)] == [150, 151]
        assert tag_of(await service.detect(request(150))) == 150


async def test_a_request_cancelled_while_it_waits_leaves_the_queue() -> None:
    latch = Latch()
    async with piped(FakeEngine(SIDE, SIDE, before=latch), queue_size=2) as service:
        first = asyncio.create_task(service.detect(request(150)))
        await latch.wait_for_arrival(150)
        second = asyncio.create_task(service.detect(request(151)))
        await eventually(lambda: in_flight(service) == 2)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        third = asyncio.create_task(service.detect(request(152)))
        latch.release(150, 152)
        assert [tag_of(await task) for task in (first, third)] == [150, 152]
        assert not latch.has_arrived(151)


async def test_a_request_cancelled_in_the_engine_ends_when_the_engine_is_done() -> None:
    latch = Latch()
    async with piped(FakeEngine(SIDE, SIDE, before=latch)) as service:
        first = asyncio.create_task(service.detect(request(150)))
        await latch.wait_for_arrival(150)
        first.cancel()
        second = asyncio.create_task(service.detect(request(151)))
        latch.release(151)
        await eventually(lambda: in_flight(service) == 2)
        assert not latch.has_arrived(151)
        latch.release(150)
        assert tag_of(await second) == 151
        with pytest.raises(asyncio.CancelledError):
            await first
        assert in_flight(service) == 0


async def test_a_deadline_that_has_passed_is_raised_before_any_work() -> None:
    touched: list[Pixels] = []
    async with piped(FakeEngine(SIDE, SIDE, before=touched.append)) as service:
        now = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceeded):
            await service.detect(request(150, deadline=now - 1))
        assert in_flight(service) == 0
    assert not touched


async def test_a_deadline_that_passes_during_the_wait_ends_the_wait() -> None:
    latch = Latch()
    async with piped(FakeEngine(SIDE, SIDE, before=latch)) as service:
        first = asyncio.create_task(service.detect(request(150)))
        await latch.wait_for_arrival(150)
        soon = asyncio.get_running_loop().time() + 0.05
        with pytest.raises(DeadlineExceeded):
            await service.detect(request(151, deadline=soon))
        latch.release(150)
        assert tag_of(await first) == 150
        assert not latch.has_arrived(151)


async def test_an_engine_failure_affects_that_request_only() -> None:
    def broken(batch: Pixels) -> None:
        if batch.max() == 150:
            raise EngineFailed("out of order")

    async with piped(FakeEngine(SIDE, SIDE, before=broken)) as service:
        with pytest.raises(EngineFailed):
            await service.detect(request(150))
        assert tag_of(await service.detect(request(151))) == 151


async def test_outputs_that_are_not_numbers_are_a_failure_and_not_an_empty_result() -> None:
    class Unsound(FakeEngine):
        def infer(self, batch: Pixels) -> np.ndarray[Any, np.dtype[np.float32]]:
            return super().infer(batch) * np.float32(np.nan)

    unsound = piped(Unsound(SIDE, SIDE))
    async with unsound as service:
        with pytest.raises(EngineFailed, match="no sound outputs"):
            await service.detect(request(150))


async def test_no_answer_reaches_another_request() -> None:
    """Many at once, a third of them cancelled somewhere on the way."""
    async with piped(queue_size=500, infer_concurrency=2) as service:
        rng = np.random.default_rng(11)
        images = {tag: tagged_png(tag) for tag in range(115, 255)}

        async def ask(tag: int, patience_s: float) -> int:
            asked = asyncio.create_task(
                service.detect(DetectionRequest(request_id=str(tag), image=images[tag]))
            )
            await asyncio.wait([asked], timeout=patience_s)
            if not asked.done() and asked.cancel():
                await asyncio.wait([asked])
            if asked.cancelled():
                return 0
            answer = asked.result()
            assert answer.request_id == str(tag)
            assert tag_of(answer) == tag
            return 1

        tags = rng.integers(115, 255, 300)
        patience = rng.choice([0.0, 0.05, 60.0], 300)
        are_answered = await asyncio.gather(*map(ask, map(int, tags), map(float, patience)))
        assert sum(are_answered) >= np.count_nonzero(patience == 60)
        assert in_flight(service) == 0


async def test_the_study_context_is_not_in_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "Doe^Jane"

    def read_study(data: bytes, **_options: object) -> tuple[Radiograph, StudyContext]:
        pixels = np.zeros((SIDE, SIDE), np.uint8)
        return Radiograph(pixels, image_facts(SIDE, SIDE, "dicom")), StudyContext(patient_name=name)

    monkeypatch.setattr("edge_agent.decoding.decoder.read_study", read_study)
    async with piped() as service:
        answer = await service.detect(request(200))
    assert name not in repr(answer)
    assert name.encode() not in converters.to_detect_response(answer).SerializeToString()


async def test_the_repr_of_a_request_does_not_contain_the_image() -> None:
    assert "PNG" not in repr(request(200))
