"""Loads the model, tests it, and reports to the agent's life cycle whether it may answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from edge_agent.app.models import ServiceFactory, load_with_decoder
from edge_agent.config import Settings
from edge_agent.core.lifecycle import Component, Lifecycle
from edge_agent.decoding.decoder import Decoder
from edge_agent.engines.loader import self_test
from edge_agent.engines.model import LoadedModel
from edge_agent.errors import EngineFailed
from edge_agent.serving.detection import DetectionService

CANCEL_TIMEOUT_S: Final = 2.0
"""For loading a model and running golden cases, when the agent is to stop."""
CLOSE_TIMEOUT_S: Final = 5.0
"""For closing the model; only an engine that hangs takes longer."""

_log = logging.getLogger(__name__)


class ModelService:
    """The model in use, as a service. Belongs to the event loop; loading runs in a thread."""

    def __init__(
        self,
        settings: Settings,
        load: ServiceFactory,
        decoder: Decoder,
        lifecycle: Lifecycle,
        *,
        on_load: Callable[[DetectionService], None],
        on_serving: Callable[[LoadedModel], None],
    ) -> None:
        """Create the service, which loads nothing yet.

        Args:
            settings: given to `load`.
            load: loads the model. It runs in a thread.
            decoder: started while the model is loaded.
            lifecycle: learns of a loaded model and of faults.
            on_load: called with each detection service before it answers.
            on_serving: called with the model when it has passed its self-test after loading.
        """
        self._settings = settings
        self._load = load
        self._decoder = decoder
        self._lifecycle = lifecycle
        self._on_load = on_load
        self._on_serving = on_serving
        self._detection: DetectionService | None = None
        self._loading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def detection(self) -> DetectionService | None:
        """The detection service; None if no model could be loaded yet."""
        return self._detection

    @property
    def is_busy(self) -> bool:
        """True while a model is loaded or tested; after `stop`, if a thread does not end."""
        return bool(self._tasks)

    def require(self) -> DetectionService:
        """Return the detection service for an accepted request.

        Raises:
            NotReady: no model has passed its self-test, or its engine does not work.
        """
        self._lifecycle.require_model()
        if self._detection is None:
            raise RuntimeError("a model is reported as loaded, but there is none")
        return self._detection

    async def start(self) -> None:
        """Do nothing: `load` loads the model, because the agent listens before."""

    async def load(self) -> None:
        """Load the model and run its self-test.

        Raises:
            OperatorError: the model cannot be loaded.
            CancelledError: the agent stops.
        """
        await self._run(self._load_and_test())

    async def recheck(self) -> None:
        """Run the self-test again beside the requests in flight.

        If there is no model because every engine failed the golden cases, loading is tried again.
        A model that is still to be loaded will be tested anyway.
        """
        if self._loading.locked() or self._lifecycle.is_starting or self._lifecycle.is_draining:
            return
        if self._detection is None:
            await self.load()
        else:
            await self._run(self._test_again(self._detection))

    def recheck_later(self) -> None:
        """Run `recheck` in a task that `stop` cancels."""
        task = asyncio.create_task(self.recheck())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Cancel loading and testing, and close the model.

        A thread that loads or infers cannot be stopped; `is_busy` is true if one still runs.
        """
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=CANCEL_TIMEOUT_S)
        if self._detection is not None:
            closing = asyncio.create_task(self._detection.close())
            self._tasks.add(closing)
            done, _ = await asyncio.wait({closing}, timeout=CLOSE_TIMEOUT_S)
            if done:
                self._tasks.discard(closing)
                closing.result()

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work as a task that `stop` cancels."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await task

    async def _load_and_test(self) -> None:
        async with self._loading:
            try:
                detection = await load_with_decoder(self._settings, self._load, self._decoder)
            except EngineFailed as error:
                self._fail(error.message)
                return
            self._detection = detection
            self._on_load(detection)
            if problem := await _find_problem(detection):
                self._fail(problem)
                return
            self._lifecycle.loaded()
            if self._lifecycle.is_ready:
                self._on_serving(detection.model)

    async def _test_again(self, detection: DetectionService) -> None:
        async with self._loading:
            problem = await _find_problem(detection)
            if problem:
                self._fail(problem)
            else:
                self._lifecycle.recover(Component.MODEL)
            _log.info("golden cases run", extra={"passed": not problem})

    def _fail(self, problem: str) -> None:
        _log.error("not serving", extra={"why": problem})
        self._lifecycle.fail(Component.MODEL, problem)


async def _find_problem(detection: DetectionService) -> str:
    """Run the golden cases of every served model; return the first problem, or an empty string.

    A model that is replaced meanwhile does not count, because it answers no more.
    """
    for served in detection.host.models:
        with served.lease():  # Its engine is not closed during the test.
            report = await asyncio.to_thread(self_test, served.model)
        if not report.passed and served in detection.host.models:
            return report.problem
    return ""
