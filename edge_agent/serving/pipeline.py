"""From one study image to its answer: admit, decode, infer, find. Knows no transport."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final

from edge_agent.core.findings import Finding, OutputsInvalid, findings_from
from edge_agent.core.geometry import Letterbox
from edge_agent.core.radiograph import Radiograph
from edge_agent.engines.base import Engine
from edge_agent.errors import DeadlineExceeded, EngineFailed, InvalidRequest, Overloaded
from edge_agent.imaging.letterbox import letterbox
from edge_agent.serving.answer import Answer, ImageFacts, StudyRequest, Timings
from edge_agent.serving.decoding import Decoder
from edge_agent.serving.threads import run_to_end
from hilum.manifest import EngineVariant, Manifest

MAX_REQUEST_ID: Final = 128


@dataclass(frozen=True, slots=True)
class Model:
    """A bundle's manifest and digest with the engine that runs one of its variants."""

    manifest: Manifest
    digest: str
    variant: EngineVariant
    engine: Engine
    reason: str  # Why this variant.

    def thresholds(self, override: float | None = None) -> list[float]:
        """Score threshold per class: the variant's operating points, or one for all."""
        points = self.variant.operating_points
        return [points[slug] if override is None else override for slug in self.manifest.findings]


@dataclass(slots=True)
class _Laps:
    """Milliseconds spent, by stage."""

    started: float = field(default_factory=time.perf_counter)
    spent: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def lap(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spent[stage] = self.spent.get(stage, 0.0) + (time.perf_counter() - start) * 1e3

    def timings(self) -> Timings:
        return Timings(
            decode_ms=self.spent["decode"],
            queue_ms=self.spent["queue"],
            infer_ms=self.spent["infer"],
            postprocess_ms=self.spent["postprocess"],
            total_ms=(time.perf_counter() - self.started) * 1e3,
        )


class Pipeline:
    """Answers study requests, a bounded number at a time.

    A request takes a place before any work is done for it and keeps it until its answer, its error
    or its cancellation; with no place left it is refused at once. Its deadline is honoured before
    each stage; work that has begun is finished.
    """

    def __init__(
        self, model: Model, decoder: Decoder, *, queue_size: int, infer_concurrency: int = 1
    ) -> None:
        self.model = model
        self._decoder = decoder
        self._queue_size = queue_size
        self._taken = 0
        self._decode_slots = asyncio.Semaphore(decoder.concurrency)
        self._infer_slots = asyncio.Semaphore(infer_concurrency)
        self._infer_pool = ThreadPoolExecutor(infer_concurrency, thread_name_prefix="infer")

    @property
    def taken(self) -> int:
        """Places taken: requests that wait or are worked on."""
        return self._taken

    async def detect(self, request: StudyRequest) -> Answer:
        """Look at one study image.

        Raises:
            InvalidRequest: an option is out of its range.
            StudyImageRefused: the image cannot be looked at.
            Overloaded: no place is free.
            DeadlineExceeded: the deadline passed before the work on a stage was begun.
            DecoderFailed, EngineFailed: the box failed, not the image.
        """
        check(request)
        model = self.model
        laps = _Laps()
        with self._place():
            async with self._slot(self._decode_slots, request.deadline, laps):
                with laps.lap("decode"):
                    size = model.manifest.input
                    radiograph = await self._decoder.decode(
                        request.image, (size.height, size.width)
                    )
            async with self._slot(self._infer_slots, request.deadline, laps):
                findings = await run_to_end(
                    self._infer_pool, look, model, radiograph, request.score_threshold, laps
                )
        return Answer(
            request_id=request.request_id,
            findings=findings,
            image=ImageFacts.of(radiograph),
            warnings=radiograph.warnings,
            bundle_digest=model.digest,
            engine=model.engine.name,
            timings=laps.timings(),
        )

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._taken >= self._queue_size:
            raise Overloaded(f"The agent already has {self._taken} images to look at.")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    @asynccontextmanager
    async def _slot(
        self, slots: asyncio.Semaphore, deadline: float | None, laps: _Laps
    ) -> AsyncIterator[None]:
        try:
            with laps.lap("queue"):
                async with asyncio.timeout_at(deadline):
                    await slots.acquire()
        except TimeoutError:
            raise _too_late() from None
        try:
            if deadline is not None and asyncio.get_running_loop().time() >= deadline:
                raise _too_late()
            yield
        finally:
            slots.release()

    def close(self) -> None:
        """End the threads and free the model. Work that has begun is finished first."""
        self._decoder.close()
        self._infer_pool.shutdown(wait=True)
        self.model.engine.close()


def check(request: StudyRequest) -> None:
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


def look(
    model: Model, radiograph: Radiograph, score_threshold: float | None, laps: _Laps
) -> tuple[Finding, ...]:
    """Letterbox, infer, find: everything that blocks, for one thread."""
    manifest = model.manifest
    with laps.lap("decode"):
        box = Letterbox.fit(
            radiograph.rows, radiograph.columns, manifest.input.height, manifest.input.width
        )
        pixels = letterbox(radiograph.pixels, box, manifest.input.pad_value)
    with laps.lap("infer"):
        outputs = model.engine.infer(pixels[None, None])
    with laps.lap("postprocess"):
        try:
            return findings_from(outputs[0], box, manifest.head, model.thresholds(score_threshold))
        except OutputsInvalid as error:
            raise EngineFailed(f"{model.engine.name} gave no sound outputs: {error}.") from None


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("The caller's deadline passed before the work was begun.")
