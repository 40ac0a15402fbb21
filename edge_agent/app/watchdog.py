"""Watches whether the engine makes progress, and tells the service manager that the agent lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from edge_agent.app.services import BackgroundTask
from edge_agent.core.lifecycle import Component, Lifecycle
from edge_agent.errors import HilumError, NotReady
from edge_agent.serving.batching import Progress
from edge_agent.system.systemd import ServiceManager

INTERVAL_S: Final = 20.0
"""Between two checks, if the service manager asks for no shorter interval."""
_PROBE_TIMEOUT_S: Final = 1.0
"""A check waits so long for its own inference; a later check reads how it ended."""

_log = logging.getLogger(__name__)


class WatchedEngine(Protocol):
    """An engine with the threads that run it; implemented by `serving.model_host.ServedModel`."""

    @property
    def name(self) -> str:
        """The name of its model."""
        ...

    @property
    def progress(self) -> Progress:
        """The progress of the threads."""
        ...

    async def check_engine(self) -> None:
        """Run the engine on a blank image, on one of the threads; raises if it fails."""
        ...


class Watchdog(BackgroundTask):
    """A service that checks the engines in use at intervals.

    An engine works if a batch has ended since the last check. An idle engine is given one blank
    image, through the same threads. An engine whose batch runs longer than a limit hangs: the agent
    is then unhealthy, and the service manager gets no sign of life until it restarts the agent.
    """

    def __init__(
        self,
        get_engines: Callable[[], Iterable[WatchedEngine]],
        lifecycle: Lifecycle,
        manager: ServiceManager,
        *,
        hang_timeout_s: float,
        interval_s: float = INTERVAL_S,
    ) -> None:
        """Create the service.

        Args:
            get_engines: returns the engines in use.
            lifecycle: learns of an engine that fails or works again.
            manager: gets a sign of life after each check that succeeds.
            hang_timeout_s: a batch that runs longer means that the engine hangs.
            interval_s: the time between two checks; the manager's own interval may be shorter.
        """
        super().__init__(self._watch, "watchdog")
        self._get_engines = get_engines
        self._lifecycle = lifecycle
        self._manager = manager
        self._hang_timeout_s = hang_timeout_s
        # sd_watchdog_enabled(3) recommends half of the manager's interval.
        self._interval_s = min(interval_s, (manager.watchdog_s or 2 * interval_s) / 2)
        # What each engine had completed at the last check.
        self._completed: dict[WatchedEngine, int] = {}
        self._logged: set[str] = set()
        self._probes: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Stop checking; an inference that hangs is left to its thread."""
        await super().stop()
        for probe in self._probes:
            probe.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self.check()

    async def check(self) -> None:
        """Check all engines once, and report the result."""
        engines = tuple(self._get_engines())
        found = [(engine, await self._find_problem(engine)) for engine in engines]
        self._completed = {engine: engine.progress.completed for engine in engines}
        # An engine that was replaced during the check answers no more.
        present = set(self._get_engines())
        problems = [(engine, why) for engine, why in found if why and engine in present]
        if problems:
            for engine, problem in problems:
                if problem not in self._logged:
                    values = {"model": engine.name, "why": problem}
                    _log.error("an engine does not work", extra=values)
            self._logged = {problem for _, problem in problems}
            self._lifecycle.fail(Component.ENGINE, " ".join(problem for _, problem in problems))
            return
        if self._logged:
            _log.warning("all engines work again")
        self._logged = set()
        self._lifecycle.recover(Component.ENGINE)
        self._manager.notify(WATCHDOG=1)

    async def _find_problem(self, engine: WatchedEngine) -> str:
        """Return why the engine does not work; empty if it does."""
        progress = engine.progress
        if progress.running_since is not None:
            running_s = asyncio.get_running_loop().time() - progress.running_since
            if running_s <= self._hang_timeout_s:
                return ""
            return f"The engine hangs: a batch runs for more than {self._hang_timeout_s:g} s."
        if progress.completed != self._completed.get(engine, 0):
            return ""
        return await self._run_probe(engine)

    async def _run_probe(self, engine: WatchedEngine) -> str:
        """Give an idle engine one image. If it takes longer, later checks see that it runs."""
        probe = asyncio.create_task(engine.check_engine())
        self._probes.add(probe)
        probe.add_done_callback(self._end_probe)
        await asyncio.wait({probe}, timeout=_PROBE_TIMEOUT_S)
        error = probe.exception() if probe.done() else None
        if error is None or isinstance(error, NotReady):  # The model was replaced meanwhile.
            return ""
        reason = error.message if isinstance(error, HilumError) else type(error).__name__
        return f"The engine fails on a blank image: {reason}"

    def _end_probe(self, probe: asyncio.Task[None]) -> None:
        self._probes.discard(probe)
        if not probe.cancelled():
            probe.exception()  # Read, because asyncio reports exceptions that never are.
