"""The models that answer. A request leases one, so that a model can be replaced while others run.

Replacing moves a reference: requests that come afterwards lease the new model, and those that hold
a lease of the old one keep it to their end. The old model is closed when its last lease has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Final

from edge_agent.engines.model import LoadedModel
from edge_agent.errors import NotReady, UnknownModel
from edge_agent.serving.batching import BatchExecutor, Progress
from edge_agent.serving.inference import ImageResult, InferenceJob, infer_blank, run_inference

RETIRE_TIMEOUT_S: Final = 60.0
"""For the requests in flight when their model is replaced; jobs that still wait then fail."""
HANG_TIMEOUT_S: Final = 30.0
"""For the engine to finish what it has started, before its model is given up unclosed."""

_log = logging.getLogger(__name__)


class ServedModel:
    """A loaded model, the executor that runs it, and the number of leases. One event loop only."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.executor = BatchExecutor[InferenceJob, ImageResult](
            partial(run_inference, model), model.batch_policy
        )
        self._leases = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @property
    def name(self) -> str:
        """Return the bundle's name, which requests may ask for."""
        return self.model.manifest.name

    @property
    def progress(self) -> Progress:
        """Return the progress of the threads that run the engine."""
        return self.executor.progress

    @property
    def leases(self) -> int:
        """Return the number of requests that hold this model now."""
        return self._leases

    @property
    def concurrency(self) -> int:
        """Return the number of images that its engine takes at once."""
        policy = self.model.batch_policy
        return policy.parallel_requests * policy.max_batch

    async def check_engine(self) -> None:
        """Run the engine on a blank image, on a thread of the executor; call it while it is idle.

        Raises:
            EngineFailed: the engine computed no output.
            NotReady: the model is closed.
        """
        await self.executor.check(partial(infer_blank, self.model))

    @contextmanager
    def lease(self) -> Iterator[ServedModel]:
        """Hold the model; while the block runs, only a retirement that times out closes it."""
        self._leases += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self._leases -= 1
            if not self._leases:
                self._unused.set()

    async def retire(self, timeout_s: float = RETIRE_TIMEOUT_S) -> bool:
        """Wait until no request holds the model, then close it.

        Args:
            timeout_s: seconds to wait for the leases. What still waits for the engine then fails
                with NotReady. An engine that hangs is given up: its memory is lost, because freeing
                a network that computes ends the process.

        Returns:
            True if the model is closed, False if it was given up.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._unused.wait()
        except TimeoutError:
            _log.error("a replaced model is still in use", extra={"model": self.name})
        return await self.close()

    async def close(self) -> bool:
        """Fail what waits for the engine, finish what has started, and free the model.

        Returns:
            False if the engine does not finish within `HANG_TIMEOUT_S` and is given up.
        """
        try:
            async with asyncio.timeout(HANG_TIMEOUT_S):
                await self.executor.close()
        except TimeoutError:
            _log.error("an engine that hangs was given up", extra={"model": self.name})
            return False
        await asyncio.to_thread(self.model.close)
        return True


class ModelHost:
    """The served models by name; the first is the default. Belongs to one event loop."""

    def __init__(self, models: Iterable[LoadedModel] = ()) -> None:
        """Serve models, which have different names.

        Raises:
            ValueError: two models have one name.
        """
        self._served: list[ServedModel] = []
        self._listeners: list[Callable[[], None]] = []
        for model in models:
            self.add(ServedModel(model))

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """Return the served models, the default first."""
        return tuple(self._served)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever a model was added or replaced."""
        self._listeners.append(listener)

    def find(self, name: str = "") -> ServedModel:
        """Return the model of this name; the default for an empty name.

        Raises:
            NotReady: no model is served yet.
            UnknownModel: there is no model of this name.
        """
        if not self._served:
            raise NotReady("The agent has no model.")
        if not name:
            return self._served[0]
        for served in self._served:
            if served.name == name:
                return served
        names = " or ".join(repr(served.name) for served in self._served)
        raise UnknownModel(
            "This agent serves no model of the requested name.",
            hint=f"Ask for {names}, or leave the name out.",
        )

    def lease(self, name: str = "") -> AbstractContextManager[ServedModel]:
        """Lease the model that has this name now.

        Raises:
            NotReady, UnknownModel: as `find`; raised here, not when the lease is entered.
        """
        return self.find(name).lease()

    def add(self, served: ServedModel) -> None:
        """Serve another model.

        Raises:
            ValueError: a model of this name is served.
        """
        self._check_name(served)
        self._served.append(served)
        self._notify()

    def replace(self, old: ServedModel, new: ServedModel) -> None:
        """Answer with `new` instead of `old` from now on. The caller retires `old`.

        Raises:
            ValueError: `old` is not served, or another model has the name of `new`.
        """
        self._check_name(new, besides=old)
        self._served[self._served.index(old)] = new
        self._notify()

    async def close(self) -> None:
        """Close all models. No request may hold one, or it fails while it waits for the engine."""
        served, self._served = self._served, []
        await asyncio.gather(*(model.close() for model in served))

    def _check_name(self, new: ServedModel, besides: ServedModel | None = None) -> None:
        if any(served.name == new.name for served in self._served if served is not besides):
            raise ValueError(f"a model named {new.name!r} is served already")

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()
