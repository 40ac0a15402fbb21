"""Models that are changed while they serve, with real bundles on a real engine."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edge_agent.app import model_manager
from edge_agent.app.model_manager import ModelManager
from edge_agent.app.models import load_detection_service
from edge_agent.config import Settings
from edge_agent.core.model_change import Progress, Step
from edge_agent.decoding.decoder import ThreadDecoder
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.loader import LoadOptions, load_model
from edge_agent.engines.model import LoadedModel, SelfTestReport
from edge_agent.errors import ChangeInProgress, EngineFailed, UnknownModel
from edge_agent.imaging import Limits
from edge_agent.serving.detection import DetectionService
from edge_agent.serving.types import DetectionRequest
from tests.support.agents.tagged import (
    SIDE,
    SLUGS,
    eventually,
    manifest,
    settings,
    tagged_png,
    write_toy_bundle,
)
from tests.support.engines.priority import run_at_normal_priority
from tests.support.system.disks import room_for

pytestmark = pytest.mark.slow


@dataclass
class Box:
    """A box whose settings name one bundle; it starts with the models that are active."""

    folder: Path
    settings: Settings
    load: Callable[[Bundle, LoadOptions], LoadedModel] = load_model
    service: DetectionService | None = None
    steps: list[Progress] = field(default_factory=list)

    def start(self) -> ModelManager:
        self.service = load_detection_service(self.settings, ThreadDecoder(2, Limits()))
        return ModelManager(
            self.settings, lambda: self.service, on_active=lambda _model: None, load=self.load
        )

    async def restart(self) -> ModelManager:
        await self.stop()
        return self.start()

    async def stop(self) -> None:
        if self.service is not None:
            await self.service.close()
            self.service = None

    @property
    def digest(self) -> str:
        assert self.service is not None
        return self.service.model.digest

    async def detect(self, **options: Any) -> str:
        """Return the digest of the model that answers now."""
        assert self.service is not None
        request = DetectionRequest("a", tagged_png(200), **options)
        return (await self.service.detect(request)).bundle_digest

    def bundle(self, version: str, **changes: Any) -> Path:
        path = self.folder / f"{version}.bundle"
        return write_toy_bundle(path, version=version, **changes)


@pytest.fixture
async def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Box]:
    run_at_normal_priority(monkeypatch)
    state = tmp_path / "state"
    for place in ("a", "b"):
        (state / "slots" / place).mkdir(parents=True, mode=0o700)
    configured = write_toy_bundle(tmp_path / "configured.bundle")
    made = Box(
        tmp_path,
        settings(bundle=configured, state_dir=state, cache_dir=tmp_path / "cache"),
    )
    yield made
    await made.stop()


def digest_of(path: Path) -> str:
    return Bundle.open(path).digest


async def test_a_bundle_is_activated_and_stays_active_after_a_restart(box: Box) -> None:
    manager, new = box.start(), box.bundle("1.0.0", side=2 * SIDE)
    final = await manager.activate(new, on_progress=box.steps.append)
    assert [progress.step for progress in box.steps] == [
        Step.OPENING,
        Step.LOADING,
        Step.TESTING,
        Step.SWITCHED,
        Step.ACTIVE,
    ]
    assert final == box.steps[-1]
    assert await box.detect() == digest_of(new)
    (listed,) = await manager.list_models()
    assert (listed.bundle_digest, listed.version) == (digest_of(new), "1.0.0")
    assert listed.previous_digest == digest_of(box.folder / "configured.bundle")
    digest = digest_of(new)
    new.unlink()
    await box.restart()
    assert box.digest == digest


async def test_a_revert_goes_back_and_forth(box: Box) -> None:
    manager, new = box.start(), box.bundle("1.0.0")
    before = box.digest
    await manager.activate(new)
    assert (await manager.revert()).step is Step.ACTIVE
    assert await box.detect() == before
    assert (await manager.revert()).step is Step.ACTIVE
    assert await box.detect() == digest_of(new)
    manager = await box.restart()
    assert box.digest == digest_of(new)


async def test_without_an_earlier_bundle_there_is_no_revert(box: Box) -> None:
    manager = box.start()
    final = await manager.revert()
    assert final.step is Step.FAILED
    assert "no earlier bundle" in final.reason


async def test_the_model_that_answers_already_is_not_loaded_again(box: Box) -> None:
    manager, before = box.start(), box.digest
    final = await manager.activate(box.folder / "configured.bundle", on_progress=box.steps.append)
    assert final.step is Step.ACTIVE
    assert len(box.steps) == 2
    assert box.digest == before


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda box: box.folder / "absent.bundle", "absent"),
        (lambda box: _damage(box.bundle("1.0.0")), "damaged"),
        (lambda box: box.bundle("1.0.0", golden_score=0.5), "golden cases"),
        (lambda box: box.bundle("1.0.0", **_fewer_findings()), "other findings"),
    ],
    ids=["absent", "damaged", "golden cases", "other findings"],
)
async def test_a_bundle_that_cannot_be_used_leaves_the_old_model_and_gives_the_reason(
    box: Box, make: Callable[[Box], Path], reason: str
) -> None:
    manager, before = box.start(), box.digest
    final = await manager.activate(make(box))
    assert final.step is Step.FAILED
    assert reason in final.reason
    assert await box.detect() == before
    await box.restart()
    assert box.digest == before


async def test_a_failed_change_does_not_cost_the_bundle_to_go_back_to(box: Box) -> None:
    manager, first, second = box.start(), box.bundle("1.0.0"), box.bundle("1.1.0")
    await manager.activate(first)
    await manager.activate(second)
    wrong = box.bundle("1.2.0", golden_score=0.5)
    assert (await manager.activate(wrong)).step is Step.FAILED
    assert (await manager.revert()).step is Step.ACTIVE
    assert await box.detect() == digest_of(first)
    left = sorted(path.name for path in (box.settings.state_dir / "slots").glob("?/*"))
    assert left == ["default.bundle", "default.bundle"]


async def test_of_two_changes_at_once_one_is_refused(box: Box) -> None:
    manager = box.start()
    outcomes = await asyncio.gather(
        manager.activate(box.bundle("1.0.0")),
        manager.activate(box.bundle("2.0.0")),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], ChangeInProgress)
    assert await box.detect() == digest_of(box.folder / "1.0.0.bundle")


async def test_golden_cases_that_fail_after_the_change_take_it_back(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, before = box.start(), box.digest
    answers = iter([SelfTestReport("first"), SelfTestReport("then", error="it computes wrongly")])
    monkeypatch.setattr(model_manager, "self_test", lambda _model: next(answers))
    final = await manager.activate(box.bundle("1.0.0"), on_progress=box.steps.append)
    assert [progress.step for progress in box.steps][-2:] == [Step.SWITCHED, Step.REVERTED]
    assert final.reason == "it computes wrongly"
    assert await box.detect() == before
    await box.restart()
    assert box.digest == before


async def test_a_record_that_the_disk_does_not_take_takes_the_change_back(box: Box) -> None:
    """After a restart the old model would answer, so it has to answer now."""
    manager, before, new = box.start(), box.digest, box.bundle("1.0.0")
    await manager.activate(new)
    await manager.revert()
    with room_for(100):
        final = await manager.activate(new)
    assert final.step is Step.REVERTED
    assert "cannot be written" in final.reason
    assert await box.detect() == before


async def test_a_second_change_is_refused_while_one_runs(box: Box) -> None:
    started, release = threading.Event(), threading.Event()

    def wait(bundle: Bundle, options: LoadOptions) -> LoadedModel:
        started.set()
        assert release.wait(60)
        return load_model(bundle, options)

    box.load = wait
    manager = box.start()
    first = asyncio.create_task(manager.activate(box.bundle("1.0.0")))
    assert await asyncio.to_thread(started.wait, 60)
    assert (await manager.list_models())[0].change_step == "loading"
    with pytest.raises(ChangeInProgress) as caught:
        await manager.activate(box.bundle("2.0.0"))
    assert caught.value.code == "change_in_progress"
    release.set()
    assert (await first).step is Step.ACTIVE
    assert (await manager.activate(box.bundle("2.0.0"))).step is Step.ACTIVE


async def test_a_load_that_hangs_is_left_when_the_agent_stops_and_its_model_is_closed_late(
    box: Box,
) -> None:
    started, release, late = threading.Event(), threading.Event(), threading.Event()

    class Late:
        reason = "late"

        def close(self) -> None:
            late.set()

    def hang(_bundle: Bundle, _options: LoadOptions) -> Any:
        started.set()
        assert release.wait(60)
        return Late()

    box.load = hang
    manager, before = box.start(), box.digest
    change = asyncio.create_task(manager.activate(box.bundle("1.0.0")))
    assert await asyncio.to_thread(started.wait, 60)
    await manager.stop()
    with pytest.raises(asyncio.CancelledError):
        await change
    assert manager.is_busy
    assert await box.detect() == before
    release.set()
    assert await asyncio.to_thread(late.wait, 60)


async def test_an_engine_that_hangs_in_its_golden_cases_is_reported(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(model_manager, "_SELF_TEST_TIMEOUT_S", 0.05)

    def hang(_model: LoadedModel) -> SelfTestReport:
        assert release.wait(60)
        return SelfTestReport()

    monkeypatch.setattr(model_manager, "self_test", hang)
    manager, before = box.start(), box.digest
    final = await manager.activate(box.bundle("1.0.0"))
    assert final.step is Step.FAILED
    assert "hangs" in final.reason
    assert await box.detect() == before
    release.set()


async def test_a_caller_that_leaves_does_not_end_the_change(box: Box) -> None:
    manager, new = box.start(), box.bundle("1.0.0")
    loading = asyncio.Event()

    def note(progress: Progress) -> None:
        if progress.step is Step.LOADING:
            loading.set()

    caller = asyncio.create_task(manager.activate(new, on_progress=note))
    await loading.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await eventually(lambda: manager.outcomes[Step.ACTIVE] == 1)
    assert await box.detect() == digest_of(new)


async def test_a_bundle_exchanged_on_the_disk_is_taken_when_asked(box: Box) -> None:
    manager = box.start()
    await manager.note_configured()
    assert not await manager.take_configured()
    configured = box.folder / "configured.bundle"
    shutil.copyfile(box.bundle("2.0.0"), configured)
    assert await manager.take_configured(on_progress=box.steps.append)
    assert box.steps[-1].step is Step.ACTIVE
    assert await box.detect() == digest_of(configured)
    assert not await manager.take_configured()
    await box.restart()
    assert box.digest == digest_of(configured)


async def test_an_activated_bundle_is_not_replaced_by_an_unchanged_configured_one(
    box: Box,
) -> None:
    manager, new = box.start(), box.bundle("1.0.0")
    await manager.note_configured()
    await manager.activate(new)
    assert not await manager.take_configured()
    assert await box.detect() == digest_of(new)


async def test_an_activated_bundle_that_is_damaged_falls_back_at_the_next_start(
    box: Box, caplog: pytest.LogCaptureFixture
) -> None:
    manager, before = box.start(), box.digest
    await manager.activate(box.bundle("1.0.0"))
    _damage(box.settings.state_dir / "slots" / "a" / "default.bundle")
    await box.restart()
    assert await box.detect() == before
    assert "an activated bundle cannot be used" in caplog.text


async def test_each_of_several_models_is_changed_by_its_name(box: Box) -> None:
    other = box.bundle("0.1.0", name="other")
    box.settings = box.settings.model_copy(update={"models": {"second": other}})
    manager, default = box.start(), box.digest
    assert await box.detect(model="other") == digest_of(other)
    new = box.bundle("0.2.0", name="other", side=2 * SIDE)
    assert (await manager.activate(new, "other")).step is Step.ACTIVE
    assert await box.detect(model="other") == digest_of(new)
    assert await box.detect() == default
    with pytest.raises(UnknownModel):
        await manager.activate(new, "third")
    # A model cannot take a name that another one has.
    final = await manager.activate(box.bundle("0.3.0"), "other")
    assert final.step is Step.FAILED
    assert "'toy' is served already" in final.reason
    await box.restart()
    assert await box.detect(model="other") == digest_of(new)
    assert await box.detect(model="toy") == default


async def test_outcomes_are_counted(box: Box) -> None:
    manager = box.start()
    await manager.activate(box.bundle("1.0.0"))
    await manager.activate(box.folder / "absent.bundle")
    assert dict(manager.outcomes) == {Step.ACTIVE: 1, Step.FAILED: 1}


async def test_a_load_that_fails_gives_its_reason(box: Box) -> None:
    def fail(_bundle: Bundle, _options: LoadOptions) -> LoadedModel:
        raise EngineFailed("it needs more than 2048 MiB")

    box.load = fail
    manager, before = box.start(), box.digest
    final = await manager.activate(box.bundle("1.0.0"))
    assert final == Progress(Step.FAILED, "it needs more than 2048 MiB")
    assert await box.detect() == before


def _damage(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    return path


def _fewer_findings() -> dict[str, Any]:
    points = dict.fromkeys(SLUGS[1:], 0.25)
    engine = manifest("openvino-fp32").engines[0].model_dump() | {"operating_points": points}
    return {"findings": SLUGS[1:], "engines": [engine]}
