"""Runs a shadow: a candidate model that sees images after they are answered, on spare time.

A shadow delays nobody: it takes one image at a time, computes in a process of its own at idle
priority, and stays within a CPU budget; images that come meanwhile are skipped and counted. Its
findings are compared with the served model's, counted, and dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from edge_agent.core.agreement import AgreementCounts, compare_findings
from edge_agent.core.cpu_budget import CpuBudget
from edge_agent.core.findings import Finding
from edge_agent.core.geometry import Letterbox
from edge_agent.core.radiograph import ImageFacts, Radiograph
from edge_agent.engines.base import Pixels
from edge_agent.errors import HilumError
from edge_agent.imaging.letterbox import apply_letterbox
from edge_agent.serving.model_control import ShadowStatus
from edge_agent.serving.observers import CompletedDetection
from edge_agent.serving.types import DetectionRequest
from hilum.catalog import BY_SLUG
from hilum.manifest import EngineVariant, InputSpec, Manifest

MAX_FAILURES: Final = 5
"""Failures in a row after which a shadow gets no more images."""

DecodeWhenIdle = Callable[[DetectionRequest, InputSpec], Awaitable[Radiograph | None]]
"""Decodes an answered image for another input size; returns None while requests wait or run."""

_log = logging.getLogger(__name__)


class ShadowModel(Protocol):
    """A candidate in a process of its own; implemented by `engines.shadow_process.ShadowModel`."""

    manifest: Manifest
    digest: str
    variant: EngineVariant

    @property
    def cpu_s(self) -> float:
        """The processor time in seconds that the process has used."""
        ...

    async def detect(self, radiograph_pixels: Pixels, facts: ImageFacts) -> Sequence[Finding]:
        """Return the findings from the head's floor on an image of the model's input size."""
        ...

    async def close(self) -> None:
        """End the process."""
        ...


class Shadow:
    """A shadow of one served model. Belongs to one event loop."""

    def __init__(self, model: ShadowModel, budget: CpuBudget, decode: DecodeWhenIdle) -> None:
        """Create the shadow.

        Args:
            model: the candidate, opened; closed by `close`.
            budget: the processor time that it may use.
            decode: decodes images again if the candidate's input has another size.
        """
        self._model = model
        self._budget = budget
        self._decode = decode
        self._task: asyncio.Task[None] | None = None
        self._agreement = AgreementCounts()
        self._skipped = 0
        self._failed = 0
        self._failed_in_a_row = 0

    def offer(
        self, request: DetectionRequest, radiograph: Radiograph, completed: CompletedDetection
    ) -> None:
        """Take an answered image if there is time for it; returns at once."""
        now = asyncio.get_running_loop().time()
        is_busy = self._task is not None and not self._task.done()
        if is_busy or self._failed_in_a_row >= MAX_FAILURES or not self._budget.may_run(now):
            self._skipped += 1
            return
        self._task = asyncio.create_task(self._run(request, radiograph, completed), name="shadow")

    @property
    def status(self) -> ShadowStatus:
        """The counts since the shadow began."""
        manifest = self._model.manifest
        return ShadowStatus(
            name=manifest.name,
            version=manifest.version,
            bundle_digest=self._model.digest,
            skipped=self._skipped,
            failed=self._failed,
            agreement=self._agreement,
        )

    async def flush(self) -> None:
        """Wait until the image that was taken has been compared."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def close(self) -> None:
        """Drop the image that is being compared, and end the candidate's process."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._model.close()

    async def _run(
        self, request: DetectionRequest, radiograph: Radiograph, completed: CompletedDetection
    ) -> None:
        loop = asyncio.get_running_loop()
        started_s, cpu_s = loop.time(), self._model.cpu_s
        decode_s = 0.0
        try:
            prepared = await self._prepare(request, radiograph, completed)
            decode_s = loop.time() - started_s
            if prepared is None:
                self._skipped += 1
                return
            findings = await self._model.detect(prepared, radiograph.facts)
            self._count(completed, findings)
            self._failed_in_a_row = 0
        except Exception as error:  # noqa: BLE001  # no failure of a shadow concerns anybody else
            self._failed += 1
            self._failed_in_a_row += 1
            why = error.message if isinstance(error, HilumError) else type(error).__name__
            _log.warning("the shadow failed on an image", extra={"why": why})
            if self._failed_in_a_row == MAX_FAILURES:
                _log.error("the shadow gets no more images", extra={"failures": MAX_FAILURES})
        finally:
            used_s = max(0.0, self._model.cpu_s - cpu_s)
            self._budget.spent(loop.time(), used_s + decode_s)

    async def _prepare(
        self, request: DetectionRequest, radiograph: Radiograph, completed: CompletedDetection
    ) -> Pixels | None:
        """Return the image as the candidate takes it; None if there is no time to decode it."""
        wanted, served = self._model.manifest.input, completed.model.manifest.input
        if (wanted.height, wanted.width) != (served.height, served.width):
            decoded = await self._decode(request, wanted)
            if decoded is None:
                return None
            radiograph = decoded
        facts = radiograph.facts
        box = Letterbox.fit(facts.rows, facts.columns, wanted.height, wanted.width)
        return await asyncio.to_thread(apply_letterbox, radiograph.pixels, box, wanted.pad_value)

    def _count(self, completed: CompletedDetection, findings: Sequence[Finding]) -> None:
        self._agreement.add(
            compare_findings(
                completed.candidates,
                findings,
                _points_by_index(completed.model.variant),
                _points_by_index(self._model.variant),
            )
        )


def _points_by_index(variant: EngineVariant) -> dict[int, float]:
    return {BY_SLUG[slug].index: point for slug, point in variant.operating_points.items()}
