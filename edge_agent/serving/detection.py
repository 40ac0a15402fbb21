"""From one study image to its answer: admit, decode, infer, find. Knows no transport."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np

from edge_agent.core.admission import AdmissionPolicy, AdmissionStats
from edge_agent.core.engine_selection import ONE_AT_A_TIME, BatchPolicy
from edge_agent.core.findings import Finding, OutputsInvalid, decode_findings
from edge_agent.core.geometry import Letterbox
from edge_agent.core.radiograph import ImageWarning, Radiograph
from edge_agent.decoding.decoder import Decoder
from edge_agent.engines.base import Pixels, RawOutputs
from edge_agent.engines.model import LoadedModel
from edge_agent.errors import EngineFailed, InvalidRequest
from edge_agent.imaging.letterbox import apply_letterbox
from edge_agent.serving.admission import AdmissionQueue
from edge_agent.serving.batching import BatchExecutor
from edge_agent.serving.types import DetectionRequest, DetectionResult, Timings
from edge_agent.system.deadlines import begun_before, is_past, too_late

MAX_REQUEST_ID: Final = 128


@dataclass(slots=True)
class StageTimer:
    """Milliseconds spent, by stage."""

    started: float = field(default_factory=time.perf_counter)
    spent: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def lap(self, stage: str) -> Iterator[None]:
        """Add the block's duration to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spent[stage] = self.spent.get(stage, 0.0) + (time.perf_counter() - start) * 1e3

    def waited_since(self, queued_at: float) -> None:
        """Count the time until now as waiting."""
        self.spent["queue"] += (time.perf_counter() - queued_at) * 1e3

    def timings(self) -> Timings:
        """Return the milliseconds spent so far."""
        return Timings(
            decode_ms=self.spent["decode"],
            queue_ms=self.spent["queue"],
            infer_ms=self.spent["infer"],
            postprocess_ms=self.spent["postprocess"],
            total_ms=(time.perf_counter() - self.started) * 1e3,
        )


class DetectionService:
    """Answers study requests, a bounded number at a time.

    Requests pass `core.admission`: `stat` before `routine`, refused at once where no place is
    free. Deadlines are honoured before each stage; work that has begun in the engine is finished.
    Large images that arrive together wait for the decoder, which bounds the memory they take
    there; what comes back from it is as small as the model's input. The decoder belongs to
    whoever gave it, and others may have it decode as well.
    """

    def __init__(
        self,
        model: LoadedModel,
        decoder: Decoder,
        *,
        queue_size: int,
        waiting_bytes: int = 1 << 30,
        batch: BatchPolicy = ONE_AT_A_TIME,
    ) -> None:
        self.model = model
        self._decoder = decoder
        self._answered: Callable[[Timings], None] | None = None
        # While some are decoded others compute: enough at work for both, and one that is ready for
        # the engine; the rest in the queue, where urgency counts.
        at_work = decoder.concurrency + batch.parallel_requests * batch.max_batch + 1
        max_running = min(queue_size, at_work)
        self._gate = AdmissionQueue(
            AdmissionPolicy(
                max_running, max_waiting=queue_size - max_running, encoded_bytes=waiting_bytes
            )
        )
        self._decode_slots = asyncio.Semaphore(decoder.concurrency)
        self._lanes = BatchExecutor(partial(look, model), batch)

    @property
    def taken(self) -> int:
        """Places taken: requests that wait or are worked on."""
        stats = self.stats()
        return stats.running + sum(stats.queued.values())

    def stats(self) -> AdmissionStats:
        """Places and queues, for metrics."""
        return self._gate.stats()

    def on_answer(self, told: Callable[[Timings], None]) -> None:
        """Have each answer's timings told, for metrics."""
        self._answered = told

    async def detect(self, request: DetectionRequest) -> DetectionResult:
        """Look at one study image.

        Raises:
            InvalidRequest: an option is out of its range.
            StudyImageRefused: the image cannot be looked at.
            Overloaded: no place is free; `retry_after_s` says when one may be.
            DeadlineExceeded: the deadline passed before the work on a stage was begun.
            DecoderFailed, EngineFailed: the box failed, not the image.
        """
        check(request)
        model = self.model
        laps = StageTimer()
        async with AsyncExitStack() as held:
            with laps.lap("queue"):
                await held.enter_async_context(
                    self._gate.admit(
                        request.priority,
                        deadline=request.deadline,
                        encoded_bytes=len(request.image),
                    )
                )
            radiograph = await self._decode(request, laps)
            sight = await self._look(request, radiograph, laps)
        answer = DetectionResult(
            request_id=request.request_id,
            findings=sight.findings,
            image=radiograph.facts,
            warnings=sight.warnings,
            bundle_digest=model.digest,
            engine=model.engine.name,
            timings=laps.timings(),
        )
        if self._answered is not None:
            self._answered(answer.timings)
        return answer

    async def _decode(self, request: DetectionRequest, laps: StageTimer) -> Radiograph:
        size = self.model.manifest.input
        with laps.lap("queue"):
            async with begun_before(request.deadline):
                await self._decode_slots.acquire()
        try:
            with laps.lap("decode"):
                return await self._decoder.decode(
                    request.image, (size.height, size.width), deadline=request.deadline
                )
        finally:
            self._decode_slots.release()

    async def _look(
        self, request: DetectionRequest, radiograph: Radiograph, laps: StageTimer
    ) -> ImageResult:
        if is_past(request.deadline):
            raise too_late()
        job = InferenceJob(radiograph, request.score_threshold, laps, time.perf_counter())
        return await self._lanes.run(job, deadline=request.deadline)

    def close(self) -> None:
        """End the threads and free the model. Work that has begun is finished first."""
        self._lanes.close()
        self.model.close()


def check(request: DetectionRequest) -> None:
    """Refuse what the contract rules out before anything is spent on it.

    Raises:
        InvalidRequest: the request id is too long or the threshold out of range.
    """
    if len(request.request_id) > MAX_REQUEST_ID:
        raise InvalidRequest(
            f"The request id has {len(request.request_id)} characters.",
            hint=f"Use at most {MAX_REQUEST_ID}.",
        )
    threshold = request.score_threshold
    if threshold is not None and not (math.isfinite(threshold) and 0 < threshold <= 1):
        raise InvalidRequest(
            f"The score threshold is {threshold:g}.",
            hint="Give a number above 0 and up to 1, or leave it out.",
        )


@dataclass(frozen=True, slots=True)
class InferenceJob:
    """A radiograph on its way to the engine, since `queued_at` of `time.perf_counter`."""

    radiograph: Radiograph
    score_threshold: float | None
    laps: StageTimer
    queued_at: float


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What was seen on one radiograph, and what to be wary of."""

    findings: tuple[Finding, ...]
    warnings: tuple[ImageWarning, ...]


def look(model: LoadedModel, jobs: Sequence[InferenceJob]) -> list[ImageResult | Exception]:
    """Letterbox, judge by content, infer, find: everything that blocks, for one thread.

    The outcomes are in the jobs' order. An image that fails fails alone, unless the engine does.
    """
    outcomes: dict[int, ImageResult | Exception] = {}
    inputs: dict[int, tuple[Letterbox, Pixels, tuple[ImageWarning, ...]]] = {}
    for index, job in enumerate(jobs):
        job.laps.waited_since(job.queued_at)
        try:
            inputs[index] = _prepare(model, job)
        except Exception as error:  # noqa: BLE001  # this job's own outcome
            outcomes[index] = error
    if inputs:
        batch = np.stack([pixels for _, pixels, _ in inputs.values()])[:, None]
        try:
            outputs = _infer(model, batch, [jobs[index].laps for index in inputs])
        except Exception as error:  # noqa: BLE001  # the outcome of all that went in
            outcomes |= dict.fromkeys(inputs, error)
        else:
            for (index, (box, _, warnings)), output in zip(inputs.items(), outputs, strict=True):
                outcomes[index] = _find(model, jobs[index], output, box, warnings)
    return [outcomes[index] for index in range(len(jobs))]


def _prepare(
    model: LoadedModel, job: InferenceJob
) -> tuple[Letterbox, Pixels, tuple[ImageWarning, ...]]:
    radiograph, size = job.radiograph, model.manifest.input
    with job.laps.lap("decode"):
        box = Letterbox.fit(
            radiograph.facts.rows, radiograph.facts.columns, size.height, size.width
        )
        pixels = apply_letterbox(radiograph.pixels, box, size.pad_value)
    if model.content_checker is None:
        return box, pixels, radiograph.warnings
    with job.laps.lap("infer"):
        verdict = model.content_checker.judge(radiograph.pixels)
    verdict.raise_if_refused()
    return box, pixels, verdict.merge_warnings(radiograph.warnings)


def _infer(model: LoadedModel, batch: Pixels, laps: Sequence[StageTimer]) -> RawOutputs:
    with ExitStack() as timed:
        for lap in laps:
            timed.enter_context(lap.lap("infer"))
        return model.engine.infer(batch)


def _find(
    model: LoadedModel,
    job: InferenceJob,
    outputs: RawOutputs,
    box: Letterbox,
    warnings: tuple[ImageWarning, ...],
) -> ImageResult | Exception:
    thresholds = model.thresholds(job.score_threshold)
    with job.laps.lap("postprocess"):
        try:
            return ImageResult(
                decode_findings(outputs, box, model.manifest.head, thresholds), warnings
            )
        except OutputsInvalid as error:
            return EngineFailed(f"{model.engine.name} gave no sound outputs: {error}.")
