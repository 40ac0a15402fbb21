"""From one study image to its findings: admit, decode, infer. Knows no transport."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import Final

from edge_agent.core.admission import AdmissionPolicy, AdmissionStats
from edge_agent.core.radiograph import Radiograph
from edge_agent.decoding.decoder import Decoder
from edge_agent.engines.model import LoadedModel
from edge_agent.errors import HilumError, InvalidRequest
from edge_agent.serving.admission import AdmissionQueue
from edge_agent.serving.error_boundary import as_hilum_error
from edge_agent.serving.inference import ImageResult, InferenceJob
from edge_agent.serving.model_host import ModelHost, ServedModel
from edge_agent.serving.observers import CompletedDetection, DetectionObserver, ObserverQueue
from edge_agent.serving.stage_timer import StageTimer
from edge_agent.serving.types import DetectionRequest, DetectionResult
from edge_agent.system.deadlines import acquire_before, deadline_exceeded, is_past
from hilum.codes import ErrorCode
from hilum.manifest import InputSpec

MAX_REQUEST_ID: Final = 128

AfterAnswer = Callable[[DetectionRequest, Radiograph, CompletedDetection], None]
"""Called with an answered request, its decoded image and its outcome."""
Detect = Callable[[DetectionRequest], Awaitable[DetectionResult]]
"""Detects findings on one study image, as `DetectionService.detect` does."""


class DetectionService:
    """Answers detection requests with the models of a host, a bounded number at a time.

    Requests are admitted by the rules of `core.admission`: `stat` before `routine`, and refused at
    once when the queue is full. The deadline is checked before each stage; work that has started
    in the engine is finished. Large images that arrive together wait for the decoder, which bounds
    the memory that decoding takes; a decoded image is as small as the model's input. The decoder
    belongs to the caller, who may use it for other images as well.

    Admission, decoder and counts outlive the models: a request leases its model once it is
    admitted, and keeps it from decoding to its answer.
    """

    def __init__(
        self,
        host: ModelHost,
        decoder: Decoder,
        *,
        queue_size: int,
        waiting_bytes: int = 1 << 30,
        observers: Iterable[DetectionObserver] = (),
    ) -> None:
        """Build the service.

        Args:
            host: the models that answer; closed by `close`.
            decoder: is started and closed by the caller.
            queue_size: requests that wait or run; one more is refused.
            waiting_bytes: bytes of study images that these requests hold together, as sent.
            observers: are told of each answer and each failure.
        """
        self.host = host
        self.observers = ObserverQueue(observers)
        self._decoder = decoder
        self._queue_size = queue_size
        self._admission = AdmissionQueue(
            AdmissionPolicy(**self._bounds(), encoded_bytes=waiting_bytes)
        )
        self._decode_limit = asyncio.Semaphore(decoder.concurrency)
        self._after_answer: AfterAnswer | None = None
        host.on_change(lambda: self._admission.resize(**self._bounds()))

    @property
    def model(self) -> LoadedModel:
        """Return the default model.

        Raises:
            NotReady: there is none.
        """
        return self.host.find().model

    def stats(self) -> AdmissionStats:
        """Return the counts of the admission queue, for metrics."""
        return self._admission.stats()

    @property
    def is_idle(self) -> bool:
        """Return True while no request waits or runs."""
        stats = self.stats()
        return not stats.running and not any(stats.queued.values())

    def after_answer(self, callback: AfterAnswer | None) -> None:
        """Call `callback` with each answered request, its radiograph and its outcome.

        It runs on the event loop once the answer is made, and must return at once.
        """
        self._after_answer = callback

    async def detect(
        self, request: DetectionRequest, pinned: ServedModel | None = None
    ) -> DetectionResult:
        """Detect findings on one study image.

        Args:
            request: the image and the options.
            pinned: a model that the caller holds a lease of; it answers whatever has replaced it.
                None means the model that the request names, as it is when the request arrives; or
                else the default, as it is when the request is admitted.

        Raises:
            InvalidRequest: an option is out of its range.
            UnknownModel: the request names a model that is not served.
            NotReady: there is no model, or the agent stops.
            StudyImageRefused: the image is not accepted.
            Overloaded: the queue is full; `retry_after_s` says when to try again.
            DeadlineExceeded: the deadline passed before a stage was started.
            DecoderFailed, EngineFailed: this machine failed, not the image.
        """
        digest = ""
        try:
            validate_request(request)
            timer = StageTimer()
            async with AsyncExitStack() as stack:
                if pinned is None and request.model:
                    # Replaced by a model of another name, it still answers those that asked for it.
                    pinned = stack.enter_context(self.host.lease(request.model))
                with timer.measure("queue"):
                    await stack.enter_async_context(
                        self._admission.admit(
                            request.priority,
                            deadline=request.deadline,
                            encoded_bytes=len(request.image),
                        )
                    )
                served = stack.enter_context(pinned.lease() if pinned else self.host.lease())
                digest = served.model.digest
                radiograph = await self._decode(served.model, request, timer)
                image_result = await self._infer(served, request, radiograph, timer)
                completed = _complete(request, radiograph, image_result, served.model, timer)
        except HilumError as error:
            self.observers.failed(error.code, digest)
            raise
        except Exception:
            self.observers.failed(ErrorCode.INTERNAL, digest)
            raise
        self.observers.completed(completed)
        self._pass_on(request, radiograph, completed)
        return completed.result

    def _pass_on(
        self, request: DetectionRequest, radiograph: Radiograph, completed: CompletedDetection
    ) -> None:
        """Call back with an answered image; a failure there does not cost the answer."""
        if self._after_answer is None:
            return
        try:
            self._after_answer(request, radiograph, completed)
        except Exception as error:  # noqa: BLE001  # the answer is made
            as_hilum_error(error)  # Logs its type and place.

    async def decode_when_idle(
        self, request: DetectionRequest, size: InputSpec
    ) -> Radiograph | None:
        """Decode an image that was answered, for a model of another input size.

        Returns:
            The radiograph; None while a request waits or runs, because that one comes first.

        Raises:
            StudyImageRefused, DecoderFailed: as `detect`.
        """
        if not self.is_idle or self._decode_limit.locked():
            return None
        async with self._decode_limit:
            return await self._decoder.decode(request.image, (size.height, size.width))

    @contextmanager
    def pin(self, name: str = "") -> Iterator[Detect]:
        """Lease the model of this name for several requests, so that all have the same model.

        Yields:
            `detect`, with that model.

        Raises:
            NotReady, UnknownModel: there is no such model.
        """
        with self.host.lease(name) as served:
            yield partial(self.detect, pinned=served)

    async def _decode(
        self, model: LoadedModel, request: DetectionRequest, timer: StageTimer
    ) -> Radiograph:
        size = model.manifest.input
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
        self,
        served: ServedModel,
        request: DetectionRequest,
        radiograph: Radiograph,
        timer: StageTimer,
    ) -> ImageResult:
        if is_past(request.deadline):
            raise deadline_exceeded()
        job = InferenceJob(radiograph, request.score_threshold, timer, time.perf_counter())
        return await served.executor.run(job, deadline=request.deadline)

    async def close(self) -> None:
        """Fail what waits for an engine, finish what has started, and free the models."""
        await self.host.close()
        await self.observers.close()

    def _bounds(self) -> dict[str, int]:
        # While some images are decoded, others are inferred: enough run for both stages and one
        # more that is ready for the engine. The others wait in the queue, where priority counts.
        engines = sum(served.concurrency for served in self.host.models) or 1
        max_running = min(self._queue_size, self._decoder.concurrency + engines + 1)
        return {"max_running": max_running, "max_waiting": self._queue_size - max_running}


def _complete(
    request: DetectionRequest,
    radiograph: Radiograph,
    image_result: ImageResult,
    model: LoadedModel,
    timer: StageTimer,
) -> CompletedDetection:
    result = DetectionResult(
        request_id=request.request_id,
        findings=image_result.findings,
        image=radiograph.facts,
        warnings=image_result.warnings,
        bundle_digest=model.digest,
        engine=model.engine.name,
        timings=timer.timings(),
    )
    return CompletedDetection(result, image_result.candidates, model)


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
