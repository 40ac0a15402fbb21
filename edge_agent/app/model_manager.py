"""Changes the models of a running agent: activate, revert, shadow, and bundles changed on the disk.

The steps and what ends them are in `core.model_change`, the durable copies in `update.slots`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from edge_agent.app.models import load_options, open_bundle
from edge_agent.app.shadows import Shadows
from edge_agent.config import Settings
from edge_agent.core.model_change import ModelChange, Progress, Step, find_incompatibility
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.loader import InService, LoadOptions, load_model, self_test
from edge_agent.engines.model import LoadedModel, SelfTestReport
from edge_agent.errors import (
    BundleInvalid,
    ChangeInProgress,
    EngineFailed,
    HilumError,
    InvalidRequest,
    NotReady,
)
from edge_agent.serving.detection import DetectionService
from edge_agent.serving.error_boundary import as_hilum_error
from edge_agent.serving.model_control import ServedModelStatus
from edge_agent.serving.model_host import ServedModel
from edge_agent.update.slots import CONFIGURED, DEFAULT, Location, ModelSlots, SlotRecord

OnProgress = Callable[[Progress], None]
T = TypeVar("T")

_log = logging.getLogger(__name__)
_CANCEL_TIMEOUT_S: Final = 2.0
"""For threads that read or load a bundle, when the agent is to stop."""
_SELF_TEST_TIMEOUT_S: Final = 120.0
"""For the golden cases beside requests; an engine that hangs takes longer."""


def _ignore(_progress: Progress) -> None:
    """Report no progress."""


@dataclass(frozen=True, slots=True)
class _Target:
    """What a change is to activate: a verified bundle and the record it is based on.

    `location` is where the bundle is already; None means that it has to be staged first.
    """

    bundle: Bundle
    record: SlotRecord
    location: Location | None = None


class ModelManager:
    """Carries out one change at a time. Belongs to the event loop; loading runs in threads."""

    def __init__(
        self,
        settings: Settings,
        get_detection: Callable[[], DetectionService | None],
        *,
        on_active: Callable[[LoadedModel], None],
        load: Callable[[Bundle, LoadOptions], LoadedModel] = load_model,
    ) -> None:
        """Create a manager.

        Args:
            settings: name the configured bundles, the state folder and the bounds.
            get_detection: returns the detection service, or None while no model is loaded.
            on_active: called with each model that became active.
            load: loads a bundle's model; blocks.
        """
        self._settings = settings
        self._get_detection = get_detection
        self._on_active = on_active
        self._load = load
        self._is_changing = False
        self._change: ModelChange | None = None
        self._changed_name = ""
        self._outcomes: Counter[Step] = Counter()
        self._configured: dict[str, str] = {}  # Digests of the settings' bundles when last read.
        self._threads: set[asyncio.Future[Any]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._retiring: set[asyncio.Task[bool]] = set()
        self._has_given_up = False
        self._has_noted = False
        self._shadows = Shadows(settings, get_detection)

    # --- queries ----------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """True while a thread loads or tests a model, or a replaced model is not closed.

        It stays true if an engine that hangs was given up, because its thread still runs.
        """
        return bool(self._threads or self._retiring) or self._has_given_up

    @property
    def outcomes(self) -> Mapping[Step, int]:
        """The number of changes since the start by their final step, for metrics."""
        return self._outcomes

    @property
    def shadows(self) -> Shadows:
        """The shadow models."""
        return self._shadows

    async def list_models(self) -> list[ServedModelStatus]:
        """Return the state of each served model, the default first.

        Raises:
            NotReady: no model is loaded.
        """
        host = self._require_detection().host
        return [
            await self._describe(served, self._slots(index))
            for index, served in enumerate(host.models)
        ]

    # --- changes ----------------------------------------------------------------------------

    async def activate(
        self, path: Path, name: str = "", on_progress: OnProgress = _ignore
    ) -> Progress:
        """Answer with another bundle from now on, in place of the served model of this name.

        Args:
            path: the bundle; it is copied into the state folder, unless it is there already.
            name: the served model to replace; empty means the default.
            on_progress: called with each step.

        Returns:
            The final step: `ACTIVE`, or with the reason `FAILED` or `REVERTED`. In both of these
            the old model answers.

        Raises:
            ChangeInProgress: another change has not ended.
            NotReady, UnknownModel: there is no such model to replace.
        """
        served, slots = self._find(name)

        async def find_target() -> _Target:
            bundle = await self._run_in_thread(lambda: Bundle.open(path))
            record = await self._load_record(slots)
            return _Target(bundle, record)

        return await self._run_change(served, slots, find_target, on_progress)

    async def revert(self, name: str = "", on_progress: OnProgress = _ignore) -> Progress:
        """Answer with the bundle that was active before; arguments and result as `activate`'s."""
        served, slots = self._find(name)

        async def find_target() -> _Target:
            record = await self._load_record(slots)
            if record.previous is None:
                raise InvalidRequest(
                    "There is no earlier bundle to go back to.",
                    hint="Activate the bundle that is to answer.",
                )
            location = record.previous
            opener = self._configured_opener(slots.name)
            bundle = await self._run_in_thread(lambda: slots.open(location, opener))
            return _Target(bundle, record, location)

        return await self._run_change(served, slots, find_target, on_progress)

    async def note_configured(self) -> None:
        """Remember the bundles in the settings; call it when the models have been loaded."""
        for place in (DEFAULT, *self._settings.models):
            with suppress(BundleInvalid):  # It may have been removed after another was activated.
                self._configured[place] = (await self._open_configured(place)).digest
        self._has_noted = True

    def configure(self, bundle: Path | None) -> None:
        """Set the default model's bundle, as the settings name it now; None means the starter."""
        self._settings = self._settings.model_copy(update={"bundle": bundle})

    async def take_configured(self, on_progress: OnProgress = _ignore) -> bool:
        """Activate the bundles in the settings that are others than before.

        Args:
            on_progress: called with each step.

        Returns:
            True if a bundle was another one; the outcome is logged and counted.

        Raises:
            BundleInvalid: a bundle in the settings cannot be opened. The old model answers.
            ChangeInProgress: another change has not ended.
        """
        has_changed = False
        if self._has_noted:
            for index in range(len(self._require_detection().host.models)):
                has_changed |= await self._take_configured(index, on_progress)
        return has_changed

    async def _take_configured(self, index: int, on_progress: OnProgress) -> bool:
        slots = self._slots(index)
        configured = await self._open_configured(slots.name)
        record = await self._load_record(slots)
        served = self._require_detection().host.models[index]
        noted = self._configured.get(slots.name, record.configured_digest)
        if configured.digest in {noted, served.model.digest}:
            return False
        location = Location(place=CONFIGURED, digest=configured.digest)

        async def find_target() -> _Target:
            return _Target(configured, record, location)

        final = await self._run_change(served, slots, find_target, on_progress)
        if final.step is Step.ACTIVE:
            self._configured[slots.name] = configured.digest
        return True

    async def set_shadow(self, path: Path | None, name: str = "") -> ServedModelStatus:
        """Run another bundle beside a served model, or none.

        Args:
            path: the bundle; None ends the shadow.
            name: the served model; empty means the default.

        Returns:
            The served model's state.

        Raises:
            BundleInvalid, EngineFailed: the bundle cannot run here; there is no shadow then.
            NotReady, UnknownModel: there is no such model.
        """
        served, slots = self._find(name)
        if path is None:
            await self._shadows.end(served.name)
        else:
            bundle = await self._run_in_thread(lambda: Bundle.open(path))
            if problem := find_incompatibility(served.model.manifest, bundle.manifest):
                raise BundleInvalid(problem, hint="A shadow has the findings of its model.")
            await self._shadows.begin(served, bundle)
        return await self._describe(served, slots)

    async def stop(self) -> None:
        """Cancel the change in progress and end the shadows. The model that answers stays."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._shadows.stop()
        if ending := {*self._threads, *self._retiring}:
            await asyncio.wait(ending, timeout=_CANCEL_TIMEOUT_S)

    # --- the steps --------------------------------------------------------------------------

    async def _run_change(
        self,
        served: ServedModel,
        slots: ModelSlots,
        find_target: Callable[[], Coroutine[Any, Any, _Target]],
        on_progress: OnProgress,
    ) -> Progress:
        """Run a change as a task that `stop` cancels and that a caller who leaves does not."""
        if self._is_changing:
            raise ChangeInProgress("Another change of the models has not ended.")
        self._is_changing = True
        steps = self._change_model(served, slots, find_target, on_progress)
        task = asyncio.create_task(steps, name="change of models")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _change_model(
        self,
        old: ServedModel,
        slots: ModelSlots,
        find_target: Callable[[], Coroutine[Any, Any, _Target]],
        on_progress: OnProgress,
    ) -> Progress:
        change = ModelChange()
        self._change, self._changed_name = change, old.name

        def move(step: Step, reason: str = "") -> None:
            on_progress(change.move(step, reason))

        try:
            on_progress(change.history[0])
            await self._carry_out(old, slots, await find_target(), move)
        except Exception as error:  # noqa: BLE001  # the boundary: every change has an outcome
            on_progress(change.end(as_hilum_error(error).message))
        finally:
            self._change, self._is_changing = None, False
        final = change.history[-1]
        self._outcomes[final.step] += 1
        log = _log.info if final.step is Step.ACTIVE else _log.error
        log("change of models", extra={"outcome": final.step, "why": final.reason})
        return final

    async def _carry_out(
        self,
        old: ServedModel,
        slots: ModelSlots,
        target: _Target,
        move: Callable[[Step, str], None],
    ) -> None:
        """Go through the steps. The model that no longer answers is closed afterwards.

        Raises:
            HilumError: a step failed; the old model answers.
        """
        record, known = target.record, target.location
        if target.bundle.digest == old.model.digest:
            if known is not None:
                await self._record(slots, known, record, old)
            move(Step.ACTIVE, "this bundle answers already")
            return
        if problem := find_incompatibility(old.model.manifest, target.bundle.manifest):
            raise BundleInvalid(problem, hint="Set it as the bundle in the settings and restart.")
        move(Step.LOADING, "")
        try:
            location, bundle = await self._stage(slots, target)
            model = await self._run_in_thread(
                lambda: self._load(bundle, self._options()), on_late=lambda late: late.close()
            )
            new = ServedModel(model)
            await self._switch(old, new, move)
            try:
                await self._require_self_test(model)
                await self._record(slots, location, record, old)
            except BaseException:
                self._replace(new, old)
                self._retire_later(new)
                raise
        finally:
            # A change that is cancelled may still read the staged bundle in its thread.
            slots.discard()
        self._retire_later(old)
        self._on_active(model)
        move(Step.ACTIVE, model.reason)
        await self._shadows.end(old.name)  # It was compared with the model that has left.

    async def _switch(
        self, old: ServedModel, new: ServedModel, move: Callable[[Step, str], None]
    ) -> None:
        """Test a model and let it answer; if that fails, close it and raise."""
        try:
            move(Step.TESTING, new.model.reason)
            await self._require_self_test(new.model)
            self._replace(old, new)
            move(Step.SWITCHED, "")
        except BaseException:
            self._retire_later(new)
            raise

    async def _record(
        self, slots: ModelSlots, location: Location, record: SlotRecord, old: ServedModel
    ) -> None:
        serving = old.model.digest
        await self._run_in_thread(lambda: slots.activate(location, record, serving=serving))

    async def _stage(self, slots: ModelSlots, target: _Target) -> tuple[Location, Bundle]:
        if target.location is not None:
            return target.location, target.bundle
        opener = self._configured_opener(slots.name)
        return await self._run_in_thread(lambda: slots.stage(target.bundle, target.record, opener))

    async def _require_self_test(self, model: LoadedModel) -> None:
        """Run the golden cases on a model.

        Raises:
            EngineFailed: it does not pass, or not in time.
        """
        try:
            async with asyncio.timeout(_SELF_TEST_TIMEOUT_S):
                report: SelfTestReport = await self._run_in_thread(lambda: self_test(model))
        except TimeoutError:
            raise EngineFailed("the golden cases did not end in time; the engine hangs") from None
        if not report.passed:
            raise EngineFailed(report.problem)

    def _replace(self, old: ServedModel, new: ServedModel) -> None:
        try:
            self._require_detection().host.replace(old, new)
        except ValueError as error:
            raise BundleInvalid(
                f"{error}", hint="Give each served model a bundle of another name."
            ) from None

    def _retire_later(self, served: ServedModel) -> None:
        task = asyncio.create_task(served.retire(), name="retire a model")
        self._retiring.add(task)
        task.add_done_callback(self._end_retiring)

    def _end_retiring(self, task: asyncio.Task[bool]) -> None:
        self._retiring.discard(task)
        if task.cancelled() or task.exception() is not None or not task.result():
            self._has_given_up = True

    # --- helpers ----------------------------------------------------------------------------

    def _options(self) -> LoadOptions:
        engine = self._settings.engine
        return load_options(
            self._settings,
            in_service=InService(
                memory_bytes=engine.change_memory_bytes, open_s=engine.change_timeout_s
            ),
        )

    def _require_detection(self) -> DetectionService:
        detection = self._get_detection()
        if detection is None:
            raise NotReady("The agent has no model yet.")
        return detection

    def _find(self, name: str) -> tuple[ServedModel, ModelSlots]:
        """Return the served model of this name and its slots."""
        host = self._require_detection().host
        served = host.find(name)
        return served, self._slots(host.models.index(served))

    def _slots(self, index: int) -> ModelSlots:
        """Return the slots of a served model; the host has the models in the settings' order."""
        place = [DEFAULT, *self._settings.models][index]
        return ModelSlots(self._settings.state_dir / "slots", place)

    def _configured_opener(self, place: str) -> Callable[[], Bundle]:
        """Return a function that opens the bundle that the settings name for a place."""
        return partial(open_bundle, self._settings, place)

    async def _open_configured(self, place: str) -> Bundle:
        return await self._run_in_thread(self._configured_opener(place))

    async def _load_record(self, slots: ModelSlots) -> SlotRecord:
        opener = self._configured_opener(slots.name)
        return await self._run_in_thread(lambda: slots.load(opener))

    async def _describe(self, served: ServedModel, slots: ModelSlots) -> ServedModelStatus:
        previous = ""
        with suppress(HilumError):  # The bundle in the settings may have been removed.
            record = await self._load_record(slots)
            previous = record.previous.digest if record.previous else ""
        model = served.model
        change = self._change if self._changed_name == served.name else None
        return ServedModelStatus(
            name=served.name,
            version=model.manifest.version,
            bundle_digest=model.digest,
            engine=model.engine.name,
            engine_reason=model.reason,
            previous_digest=previous,
            shadow=self._shadows.status(served.name),
            change_step=change.step if change else "",
        )

    async def _run_in_thread(
        self, function: Callable[[], T], on_late: Callable[[T], None] | None = None
    ) -> T:
        """Run a blocking function. If cancelled, leave at once; the thread ends when it can.

        Args:
            function: blocks.
            on_late: called with a result that comes after the cancellation.
        """
        future = asyncio.get_running_loop().run_in_executor(None, function)
        self._threads.add(future)
        future.add_done_callback(self._threads.discard)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(lambda late: _end_late(late, on_late))
            raise


def _end_late(late: asyncio.Future[T], on_late: Callable[[T], None] | None) -> None:
    if late.cancelled() or late.exception() is not None or on_late is None:
        return
    on_late(late.result())
