"""Observers learn of each outcome after it is made, and never delay or fail an answer."""

from __future__ import annotations

import pytest

from edge_agent.errors import InvalidRequest
from edge_agent.serving.observers import CompletedDetection, ObserverQueue
from edge_agent.serving.types import DetectionRequest
from hilum.codes import ErrorCode
from tests.support.agents.tagged import DIGEST, fake_pipeline, settings, tagged_png


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.seen: list[CompletedDetection] = []
        self.codes: list[tuple[ErrorCode, str]] = []

    def completed(self, detection: CompletedDetection) -> None:
        self.seen.append(detection)

    def failed(self, code: ErrorCode, bundle_digest: str) -> None:
        self.codes.append((code, bundle_digest))


class Broken(Recorder):
    """An observer that fails."""

    def completed(self, detection: CompletedDetection) -> None:
        raise RuntimeError(detection.result.request_id)


async def test_observers_get_findings_from_the_floor_whatever_the_caller_asked_for() -> None:
    recorder = Recorder()
    service = fake_pipeline(settings())
    service.observers.add(recorder)
    image = tagged_png(120)  # Its score is 120 / 255.
    result = await service.detect(DetectionRequest("a", image, score_threshold=0.9))
    await service.observers.flush()
    (seen,) = recorder.seen
    assert result.findings == ()
    assert seen.result is result
    assert [found.score for found in seen.candidates] == [pytest.approx(120 / 255)]
    assert seen.model.digest == DIGEST
    await service.close()


async def test_observers_get_the_code_of_a_failure_and_the_model_that_was_leased() -> None:
    recorder = Recorder()
    service = fake_pipeline(settings())
    service.observers.add(recorder)
    with pytest.raises(InvalidRequest):
        await service.detect(DetectionRequest("a", b"", score_threshold=2))
    with pytest.raises(Exception, match="empty"):
        await service.detect(DetectionRequest("a", b""))
    await service.observers.flush()
    assert recorder.codes == [
        (ErrorCode.INVALID_REQUEST, ""),
        (ErrorCode.EMPTY_FILE, DIGEST),
    ]
    await service.close()


async def test_an_observer_that_raises_harms_neither_the_answer_nor_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = Recorder()
    service = fake_pipeline(settings())
    for observer in (Broken(), recorder):
        service.observers.add(observer)
    result = await service.detect(DetectionRequest("secret-id", tagged_png(200)))
    await service.observers.flush()
    assert [seen.result for seen in recorder.seen] == [result]
    assert "an observer of detections failed" in caplog.text
    assert "secret-id" not in caplog.text
    await service.close()


async def test_outcomes_beyond_the_bound_are_dropped_and_counted() -> None:
    recorder = Recorder()
    queue = ObserverQueue([recorder], size=3)
    for _ in range(5):
        queue.failed(ErrorCode.OVERLOADED)
    await queue.close()
    assert recorder.codes == [(ErrorCode.OVERLOADED, "")] * 3
    assert queue.dropped == 2
