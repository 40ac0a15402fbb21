"""The watchdog with a real executor; engines that hang are held by an event."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import numpy as np
import pytest

from edge_agent.app.watchdog import Watchdog
from edge_agent.core.lifecycle import Lifecycle
from edge_agent.engines.base import Pixels
from edge_agent.errors import EngineFailed
from edge_agent.system.systemd import ServiceManager
from tests.support.agents.http import serving_lifecycle
from tests.support.agents.tagged import SIDE, eventually, fake_pipeline, settings
from tests.support.engines.fake_engine import FakeEngine


class Manager(ServiceManager):
    """A service manager that counts the signs of life."""

    def __init__(self) -> None:
        super().__init__()
        self.signs_of_life = 0

    def notify(self, **fields: object) -> None:
        self.signs_of_life += fields == {"WATCHDOG": 1}


class Box:
    """A detection service, its watchdog and an engine that the test can stop."""

    def __init__(self, hang_timeout_s: float) -> None:
        self.batches: list[Pixels] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.failure: Exception | None = None
        self.service = fake_pipeline(settings(), None, FakeEngine(SIDE, SIDE, before=self._infer))
        (self.engine,) = self.service.host.models
        self.engines = [self.engine]
        self.lifecycle: Lifecycle = serving_lifecycle()
        self.manager = Manager()
        self.watchdog = Watchdog(
            lambda: self.engines, self.lifecycle, self.manager, hang_timeout_s=hang_timeout_s
        )

    def _infer(self, batch: Pixels) -> None:
        self.batches.append(batch)
        assert self.go_on.wait(60)
        if self.failure is not None:
            raise self.failure

    async def check(self) -> bool:
        """Check once; return whether the service manager got a sign of life."""
        before = self.manager.signs_of_life
        await self.watchdog.check()
        return self.manager.signs_of_life > before


@pytest.fixture
def hang_timeout_s() -> float:
    return 60.0


@pytest.fixture
async def box(hang_timeout_s: float) -> AsyncIterator[Box]:
    box = Box(hang_timeout_s)
    yield box
    box.go_on.set()
    await box.watchdog.stop()
    await box.service.close()


async def test_an_idle_engine_is_given_a_blank_image(box: Box) -> None:
    assert await box.check()
    assert await box.check()
    assert len(box.batches) == 2
    assert all(batch.shape == (1, 1, SIDE, SIDE) and not np.any(batch) for batch in box.batches)
    assert box.lifecycle.is_ready


async def test_an_engine_that_worked_since_the_last_check_is_given_none(box: Box) -> None:
    await box.engine.check_engine()
    assert await box.check()
    assert len(box.batches) == 1


async def test_an_agent_without_a_model_lives(box: Box) -> None:
    box.engines.clear()
    assert await box.check()
    assert not box.batches


async def test_a_batch_may_run_for_as_long_as_the_limit_says(box: Box) -> None:
    box.go_on.clear()
    checking = asyncio.create_task(box.engine.check_engine())
    await eventually(lambda: bool(box.batches))
    assert await box.check()
    assert box.lifecycle.is_ready
    box.go_on.set()
    await checking


@pytest.mark.parametrize("hang_timeout_s", [0.0])
async def test_an_engine_that_hangs_is_unhealthy_until_its_batch_ends(
    box: Box, caplog: pytest.LogCaptureFixture
) -> None:
    box.go_on.clear()
    checking = asyncio.create_task(box.engine.check_engine())
    await eventually(lambda: bool(box.batches))
    for _ in range(2):
        assert not await box.check()
        assert "The engine hangs" in box.lifecycle.reason
    assert len(box.batches) == 1, "an engine that hangs is given nothing more"
    assert caplog.messages == ["an engine does not work"], "it is logged once"
    box.go_on.set()
    await checking
    assert await box.check()
    assert box.lifecycle.is_ready
    assert caplog.messages[1:] == ["all engines work again"]


async def test_an_engine_that_fails_on_a_blank_image_is_unhealthy_until_it_does_not(
    box: Box,
) -> None:
    box.failure = EngineFailed("The GPU is lost.")
    assert not await box.check()
    assert box.lifecycle.reason == "The engine fails on a blank image: The GPU is lost."
    box.failure = None
    assert await box.check()
    assert box.lifecycle.is_ready


def test_checks_are_twice_as_frequent_as_the_manager_asks() -> None:
    def interval_s(watchdog_s: float | None) -> float:
        manager = ServiceManager("/nowhere", watchdog_s)
        return Watchdog(tuple, Lifecycle(), manager, hang_timeout_s=1)._interval_s

    assert interval_s(None) == interval_s(60) == 20
    assert interval_s(6) == 3
