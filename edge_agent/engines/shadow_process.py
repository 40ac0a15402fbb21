"""A shadow model: a candidate that detects in a process of its own, beside the model that serves.

The process computes on one thread, only when nothing else does, and within a memory bound. So a
crash, a hang or a leak of the candidate does not reach the agent. See
docs/decisions/0097-shadow-in-its-own-process.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final, ParamSpec, Self, TypeVar

import numpy as np

from edge_agent.core.findings import Box, Finding
from edge_agent.core.radiograph import ImageFacts
from edge_agent.engines.base import Pixels
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.engine_process import EngineProcess, EngineProcessFailed, ProcessLimits
from edge_agent.engines.selection.candidates import AUTO, build_job, find_candidates
from edge_agent.engines.selection.in_service import check_available_memory
from edge_agent.engines.selection.probe import ProbeJob, ProbeReady
from edge_agent.errors import EngineFailed
from edge_agent.system.cancellation import wait_uncancellable
from hilum.manifest import EngineVariant

P = ParamSpec("P")
T = TypeVar("T")

_SERVE: Final = "edge_agent.engines.shadow_worker:serve"
_THREADS: Final = 1


@dataclass(frozen=True, slots=True)
class ShadowOptions:
    """Options of a shadow model.

    Attributes:
        cache_dir: the agent's cache; compiled models have a folder in it.
        memory_bytes: the most memory that the process may hold, its libraries included.
        variant: the name of the engine variant; `AUTO` takes the first in the bundle that runs on
            a processor and reproduces the golden cases.
        open_s: seconds that a variant has to open and to run its golden cases.
        detect_s: seconds that the process has for one image. On a busy machine it waits for most of
            them, because its priority is idle.
    """

    cache_dir: Path
    memory_bytes: int
    variant: str = AUTO
    open_s: float = 300.0
    detect_s: float = 300.0


class ShadowModel:
    """A candidate model in a process of its own. Belongs to one event loop.

    Attributes:
        manifest, digest: the bundle's.
        variant: the engine variant that the process runs.
    """

    def __init__(self, bundle: Bundle, variant: EngineVariant, options: ShadowOptions) -> None:
        """Create a shadow whose process is not started yet; see `open`."""
        self.manifest = bundle.manifest
        self.digest = bundle.digest
        self.variant = variant
        self._options = options
        self._process: EngineProcess | None = None
        self._is_closed = False
        # The kernel ends the process with the thread that starts it, so one thread does all.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shadow")

    @classmethod
    async def open(cls, bundle: Bundle, options: ShadowOptions) -> Self:
        """Start a process and wait until it has reproduced the golden cases.

        Args:
            bundle: the candidate.
            options: the variant, and the bounds on memory and time.

        Returns:
            The shadow model. The caller closes it.

        Raises:
            BundleInvalid: the bundle has no variant that this agent has a runtime for.
            ConfigInvalid: the variant does not run on this machine.
            EngineFailed: no variant can be used; the message names each one's problem.
        """
        problems = []
        for variant in await asyncio.to_thread(_find_variants, bundle, options.variant):
            shadow = cls(bundle, variant, options)
            job = build_job(bundle, variant, options.cache_dir, _THREADS)
            try:
                await shadow._run(shadow._start, job)
            except EngineProcessFailed as failure:
                problems.append(f"{variant.name} {failure}")
            except BaseException:
                await shadow.close()
                raise
            else:
                return shadow
            await shadow.close()
        raise EngineFailed(
            f"the candidate cannot run beside the model that serves: {'; '.join(problems)}",
            hint="The model that serves goes on.",
        )

    @property
    def cpu_s(self) -> float:
        """Return the processor time in seconds that the process has used, opening included."""
        return self._process.cpu_s if self._process else 0.0

    @property
    def peak_bytes(self) -> int:
        """Return the most memory that the process has held."""
        return self._process.peak_bytes if self._process else 0

    async def detect(self, radiograph_pixels: Pixels, facts: ImageFacts) -> tuple[Finding, ...]:
        """Detect findings on one image; a second call waits for the first.

        A call that is cancelled returns at once, and its late answer is dropped.

        Args:
            radiograph_pixels: u8 (H, W), letterboxed into `manifest.input` by the caller
                (`Letterbox.fit` of the original's size, `apply_letterbox`).
            facts: the original image's; its rows and columns are used.

        Returns:
            The findings from the head's floor in the original's pixels, highest score first.

        Raises:
            EngineFailed: the pixels are not of the input's form, or the process crashed, did not
                answer in time or needs more memory than it may. It is not started again.
        """
        size = self.manifest.input
        if radiograph_pixels.dtype != np.uint8 or radiograph_pixels.shape != (
            size.height,
            size.width,
        ):
            raise EngineFailed(
                f"an image of {radiograph_pixels.dtype} {radiograph_pixels.shape}; "
                f"the shadow takes u8 {(size.height, size.width)}"
            )
        if self._is_closed:
            raise EngineFailed(f"the shadow {self.variant.name} is closed")
        try:
            return await self._run(
                self._detect, radiograph_pixels.tobytes(), facts.rows, facts.columns
            )
        except EngineProcessFailed as failure:
            raise EngineFailed(f"the shadow {self.variant.name} {failure}") from None

    async def close(self) -> None:
        """End the process, in any state. Calls in progress fail. A second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._process is not None:
            self._process.kill()
        ending = asyncio.get_running_loop().run_in_executor(self._thread, self._end)
        try:
            await wait_uncancellable(ending)
        finally:
            self._thread.shutdown(wait=False)

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(function, *args, **kwargs))

    def _start(self, job: ProbeJob) -> None:
        """Start the process and wait until it is ready; raises EngineProcessFailed."""
        memory_bytes = self._options.memory_bytes
        check_available_memory(memory_bytes)
        limits = ProcessLimits(is_idle=True, memory_bytes=memory_bytes)
        try:
            self._process = process = EngineProcess(_SERVE, limits)
        except OSError as error:
            raise EngineProcessFailed(f"could not be tried: {error}") from None
        if self._is_closed:  # While the process was being started.
            process.kill()
        process.send(asdict(job))
        ready = ProbeReady(**process.receive(self._options.open_s, "get ready"))
        ready.require_agreement()

    def _detect(self, pixels: bytes, rows: int, columns: int) -> tuple[Finding, ...]:
        process = self._process
        if process is None or self._is_closed:
            raise EngineProcessFailed("is closed")
        process.send({"rows": rows, "columns": columns}, pixels)
        answer = process.receive(self._options.detect_s, "answer")
        return tuple(Finding(index, score, Box(*box)) for index, score, *box in answer["findings"])

    def _end(self) -> None:
        if self._process is not None:
            self._process.end()


def _find_variants(bundle: Bundle, wanted: str) -> list[EngineVariant]:
    """Return the variants to try. A GPU's is not tried unless it is named: serving may need it."""
    variants = find_candidates(bundle, wanted, ())
    if wanted != AUTO:
        return variants
    on_processor = [variant for variant in variants if variant.runtime != "tensorrt"]
    if not on_processor:
        raise EngineFailed(
            "the candidate has engine variants for a GPU only",
            hint="Name one of them to run it beside the model that serves.",
        )
    return on_processor
