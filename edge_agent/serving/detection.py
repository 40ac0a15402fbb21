"""From one study image to its findings: admit, decode, infer. Knows no transport."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from edge_agent.core.admission import AdmissionPolicy, AdmissionStats
from edge_agent.core.engine_selection import ONE_AT_A_TIME, BatchPolicy
from edge_agent.core.radiograph import Radiograph
from edge_agent.decoding.decoder import Decoder
from edge_agent.engines.model import LoadedModel
from edge_agent.errors import InvalidRequest, UnknownModel
from edge_agent.serving.admission import AdmissionQueue
from edge_agent.serving.batching import BatchExecutor
from edge_agent.serving.inference import ImageResult, InferenceJob, run_inference
from edge_agent.serving.stage_timer import StageTimer
from edge_agent.serving.types import DetectionRequest, DetectionResult, Timings
from edge_agent.system.deadlines import acquire_before, deadline_exceeded, is_past

MAX_REQUEST_ID: Final = 128


class DetectionService:
    """Answers detection requests with one model, a bounded number at a time.

    Requests are admitted by the rules of `core.admission`: `stat` before `routine`, and refused at
    once when the queue is full. The deadline is checked before each stage; work that has started
    in the engine is finished. Large images that arrive together wait for the decoder, which bounds
    the memory that decoding takes; a decoded image is as small as the model's input. The decoder
    belongs to the caller, who may use it for other images as well.
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
        """Build the service over a model that is loaded.

        Args:
            model: runs every image; closed by `close`.
            decoder: is started and closed by the caller.
            queue_size: requests that wait or run; one more is refused.
            waiting_bytes: bytes of study images that these requests hold together, as sent.
            batch: how images are given to the engine.
        """
        self.model = model
        self._decoder = decoder
        self._on_answer: Callable[[Timings], None] | None = None
        # While some images are decoded, others are inferred: enough run for both stages and one
        # more that is ready for the engine. The others wait in the queue, where priority counts.
        busy = decoder.concurrency + batch.parallel_requests * batch.max_batch + 1
        max_running = min(queue_size, busy)
        self._admission = AdmissionQueue(
            AdmissionPolicy(
                max_running, max_waiting=queue_size - max_running, encoded_bytes=waiting_bytes
            )
        )
        self._decode_limit = asyncio.Semaphore(decoder.concurrency)
        self._batches = BatchExecutor(partial(run_inference, model), batch)

    def stats(self) -> AdmissionStats:
        """Return the counts of the admission queue, for metrics."""
        return self._admission.stats()

    def on_answer(self, callback: Callable[[Timings], None]) -> None:
        """Call `callback` with the timings of each answered image, for metrics."""
        self._on_answer = callback

    async def detect(self, request: DetectionRequest) -> DetectionResult:
        """Detect findings on one study image.

        Raises:
            InvalidRequest: an option is out of its range.
            UnknownModel: the request names another model than the one that is served.
            StudyImageRefused: the image is not accepted.
            Overloaded: the queue is full; `retry_after_s` says when to try again.
            DeadlineExceeded: the deadline passed before a stage was started.
            DecoderFailed, EngineFailed: this machine failed, not the image.
        """
        validate_request(request)
        model = self.model
        check_model_name(request.model, model.manifest.name)
        timer = StageTimer()
        async with AsyncExitStack() as admitted:
            with timer.measure("queue"):
                await admitted.enter_async_context(
                    self._admission.admit(
                        request.priority,
                        deadline=request.deadline,
                        encoded_bytes=len(request.image),
                    )
                )
            radiograph = await self._decode(request, timer)
            image_result = await self._infer(request, radiograph, timer)
        result = DetectionResult(
            request_id=request.request_id,
            findings=image_result.findings,
            image=radiograph.facts,
            warnings=image_result.warnings,
            bundle_digest=model.digest,
            engine=model.engine.name,
            timings=timer.timings(),
        )
        if self._on_answer is not None:
            self._on_answer(result.timings)
        return result

    async def _decode(self, request: DetectionRequest, timer: StageTimer) -> Radiograph:
        size = self.model.manifest.input
        with timer.measure("queue"):
            await acquire_before(request.deadline, self._decode_limit.acquire)
        try:
            with timer.measure("decode"):
                return await self._decoder.decode(
                    request.image, (size.height, size.width), deadline=request.deadline
                )
        finally:
            self._decode_limit.release()

    async def _infer(
        self, request: DetectionRequest, radiograph: Radiograph, timer: StageTimer
    ) -> ImageResult:
        if is_past(request.deadline):
            raise deadline_exceeded()
        job = InferenceJob(radiograph, request.score_threshold, timer, time.perf_counter())
        return await self._batches.run(job, deadline=request.deadline)

    async def close(self) -> None:
        """Fail what waits for the engine, finish what has started, and free the model."""
        await self._batches.close()
        await asyncio.to_thread(self.model.close)


def check_model_name(requested: str, served: str) -> None:
    """Check that a caller asks for the model that is served.

    Args:
        requested: the name in the request; empty means the served model.
        served: the name of the served bundle.

    Raises:
        UnknownModel: the names differ.
    """
    if requested not in {"", served}:
        raise UnknownModel(
            "This agent serves no model of the requested name.",
            hint=f"Ask for {served!r}, or leave the name out.",
        )


def validate_request(request: DetectionRequest) -> None:
    """Check the limits of the contract before any work is done.

    Raises:
        InvalidRequest: the request id is too long or the threshold is out of range.
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
