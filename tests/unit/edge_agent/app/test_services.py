from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from edge_agent.app.services import BackgroundTask, start_service
from tests.support.agents.tagged import eventually


class Recorded:
    """A service that records what is done to it."""

    def __init__(self, name: str, record: list[str], *, fails: bool = False) -> None:
        self._name, self._record, self._fails = name, record, fails

    async def start(self) -> None:
        if self._fails:
            raise ValueError(self._name)
        self._record.append(f"start {self._name}")

    async def stop(self) -> None:
        self._record.append(f"stop {self._name}")


async def test_services_stop_in_the_reverse_order() -> None:
    record: list[str] = []
    async with AsyncExitStack() as running:
        for name in ("a", "b"):
            await start_service(running, Recorded(name, record))
    assert record == ["start a", "start b", "stop b", "stop a"]


async def test_a_service_that_does_not_start_is_not_stopped() -> None:
    record: list[str] = []
    async with AsyncExitStack() as running:
        await start_service(running, Recorded("a", record))
        with pytest.raises(ValueError, match="b"):
            await start_service(running, Recorded("b", record, fails=True))
    assert record == ["start a", "stop a"]


async def test_a_background_task_runs_until_it_is_stopped() -> None:
    begun, ended = asyncio.Event(), []

    async def run() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    task = BackgroundTask(run, "test")
    await task.start()
    await begun.wait()
    assert not ended
    await task.stop()
    assert ended


async def test_a_background_task_that_fails_is_logged_and_can_be_stopped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ValueError("broken")

    task = BackgroundTask(fail, "test")
    await task.start()
    await eventually(lambda: bool(caplog.messages))
    await task.stop()
    assert caplog.messages == ["a background task failed"]


async def test_a_background_task_that_was_never_started_can_be_stopped() -> None:
    await BackgroundTask(asyncio.Event().wait, "test").stop()  # type: ignore[arg-type]
