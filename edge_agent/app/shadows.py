"""The shadow models of a running agent, at most one beside each served model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edge_agent.config import Settings
from edge_agent.core.cpu_budget import CpuBudget
from edge_agent.core.radiograph import Radiograph
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.shadow_process import ShadowModel, ShadowOptions
from edge_agent.errors import NotReady
from edge_agent.serving.detection import DetectionService
from edge_agent.serving.model_control import ShadowStatus
from edge_agent.serving.model_host import ServedModel
from edge_agent.serving.observers import CompletedDetection
from edge_agent.serving.shadow import Shadow
from edge_agent.serving.types import DetectionRequest


class Shadows:
    """Begins and ends shadows, and gives them the images that were answered."""

    def __init__(
        self, settings: Settings, get_detection: Callable[[], DetectionService | None]
    ) -> None:
        """Create the collection without a shadow.

        Args:
            settings: the bounds on memory, time and processor time.
            get_detection: returns the detection service.
        """
        self._settings = settings
        self._get_detection = get_detection
        self._by_model: dict[str, Shadow] = {}
        self._changing = asyncio.Lock()

    def status(self, model: str) -> ShadowStatus | None:
        """Return the state of the shadow beside a served model; None if it has none."""
        shadow = self._by_model.get(model)
        return shadow.status if shadow else None

    def statuses(self) -> dict[str, ShadowStatus]:
        """Return the state of every shadow, by the served model's name."""
        return {model: shadow.status for model, shadow in self._by_model.items()}

    async def begin(self, served: ServedModel, bundle: Bundle) -> None:
        """Run a bundle beside a served model, in place of its earlier shadow.

        Raises:
            BundleInvalid, ConfigInvalid, EngineFailed: the bundle cannot run here. An earlier
                shadow goes on.
            NotReady: the served model was replaced meanwhile.
        """
        engine = self._settings.engine
        options = ShadowOptions(
            self._settings.cache_dir,
            engine.change_memory_bytes,
            open_s=engine.change_timeout_s,
        )
        async with self._changing:
            opened = await ShadowModel.open(bundle, options)
            detection = self._get_detection()
            if detection is None or served not in detection.host.models:
                await opened.close()
                raise NotReady("The model that the shadow was for was replaced.")
            await self._end(served.name)
            budget = CpuBudget(engine.shadow_cpu_share)
            self._by_model[served.name] = Shadow(opened, budget, detection.decode_when_idle)
            detection.after_answer(self._offer)

    async def end(self, model: str) -> None:
        """End the shadow of a served model, if it has one."""
        async with self._changing:
            await self._end(model)

    async def _end(self, model: str) -> None:
        shadow = self._by_model.pop(model, None)
        if shadow is not None:
            await shadow.close()

    async def stop(self) -> None:
        """End all shadows."""
        for model in list(self._by_model):
            await self._end(model)

    def _offer(
        self, request: DetectionRequest, radiograph: Radiograph, completed: CompletedDetection
    ) -> None:
        shadow = self._by_model.get(completed.model.manifest.name)
        if shadow is not None:
            shadow.offer(request, radiograph, completed)
