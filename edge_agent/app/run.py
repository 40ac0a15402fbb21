"""Runs an agent as a process: starts it, loads its model, and stops it on a signal."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable

from edge_agent.app.agent import Agent
from edge_agent.app.models import ServiceFactory, load_detection_service
from edge_agent.config import Settings
from edge_agent.errors import HilumError
from edge_agent.system.systemd import ServiceManager

_log = logging.getLogger(__name__)


async def serve(
    settings: Settings,
    load: ServiceFactory = load_detection_service,
    reload_settings: Callable[[], Settings] | None = None,
) -> int:
    """Run the agent until SIGTERM or SIGINT; a second signal ends the process at once.

    On SIGHUP the agent takes the bundle in the settings if that is another one; otherwise it runs
    the golden cases again.

    Args:
        settings: the agent's settings.
        load: loads the model.
        reload_settings: reads the settings again on SIGHUP; None for the same ones. Only the bundle
            is taken from them.

    Returns:
        The process's exit status, 0. If work in flight was lost, the process ends here with 1.

    Raises:
        OperatorError: the agent cannot listen or its model cannot be loaded.
    """
    stop = asyncio.Event()
    agent = Agent(settings, load, ServiceManager.from_environment())
    rechecks: set[asyncio.Task[None]] = set()

    def start_recheck() -> None:
        try:
            changed = reload_settings() if reload_settings else settings
        except HilumError as error:
            _log.error("the settings cannot be read again", extra={"why": error.message})
            return
        task = asyncio.create_task(agent.recheck(changed))
        rechecks.add(task)
        task.add_done_callback(rechecks.discard)

    _handle_signals(stop, start_recheck)
    await agent.start()
    loading = asyncio.create_task(agent.load())
    stop_requested = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({loading, stop_requested}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
        await stop_requested
    finally:
        is_drained = await agent.stop()
        if not is_drained:
            agent.abandon()
        if stop.is_set() and (agent.is_busy or not is_drained):
            # The process ends here because the event loop would wait for its threads. Measuring
            # engines takes minutes, and an engine that hangs never ends.
            os._exit(0 if is_drained else 1)
    return 0


def _handle_signals(stop: asyncio.Event, recheck: Callable[[], None]) -> None:
    def request_stop(signum: int) -> None:
        if stop.is_set():
            os._exit(128 + signum)  # A shell reports this for a program that a signal ended.
        _log.info("stopping", extra={"signal": signal.Signals(signum).name})
        stop.set()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, request_stop, signum)
    loop.add_signal_handler(signal.SIGHUP, recheck)
