"""The servicer of `hilum.v1.ModelControl`: changes the models of the running agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

from edge_agent.core.model_change import Progress
from edge_agent.errors import InvalidRequest
from edge_agent.serving.error_boundary import as_hilum_error
from edge_agent.serving.grpc.call_tracker import ServicerContext
from edge_agent.serving.grpc.errors import abort
from edge_agent.serving.model_control import ModelController, ServedModelStatus, ShadowStatus
from hilum.catalog import CATALOG
from hilum.v1 import model_control_pb2 as pb

SERVICE: Final = "hilum.v1.ModelControl"

OnProgress = Callable[[Progress], None]
_Change = Callable[[OnProgress], Awaitable[Progress]]


class ModelControlServicer:
    """Implements `hilum.v1.ModelControl`. The servers authorize its calls as `ADMINISTER`."""

    def __init__(self, controller: ModelController) -> None:
        self._controller = controller

    async def ListModels(  # noqa: N802  # the contract's name
        self, _request: pb.ListModelsRequest, context: ServicerContext
    ) -> pb.ListModelsResponse:
        """Return the served models, the default first."""
        try:
            models = await self._controller.list_models()
        except Exception as error:  # noqa: BLE001  # the boundary: every failure gets a code
            await abort(context, as_hilum_error(error))
        return pb.ListModelsResponse(models=[_to_message(model) for model in models])

    async def ActivateModel(  # noqa: N802  # the contract's name
        self, request: pb.ActivateModelRequest, context: ServicerContext
    ) -> AsyncIterator[pb.ModelChangeProgress]:
        """Activate a bundle, and send each step."""

        async def activate(on_progress: OnProgress) -> Progress:
            path = _to_path(request.bundle)
            return await self._controller.activate(path, request.model, on_progress)

        async for progress in _send_steps(activate, context):
            yield progress

    async def RevertModel(  # noqa: N802  # the contract's name
        self, request: pb.RevertModelRequest, context: ServicerContext
    ) -> AsyncIterator[pb.ModelChangeProgress]:
        """Activate the previous bundle, and send each step."""

        async def revert(on_progress: OnProgress) -> Progress:
            return await self._controller.revert(request.model, on_progress)

        async for progress in _send_steps(revert, context):
            yield progress

    async def SetShadow(  # noqa: N802  # the contract's name
        self, request: pb.SetShadowRequest, context: ServicerContext
    ) -> pb.ServedModelStatus:
        """Run another bundle beside a served model, or end that."""
        try:
            path = _to_path(request.bundle) if request.bundle else None
            model = await self._controller.set_shadow(path, request.model)
        except Exception as error:  # noqa: BLE001  # the boundary: every failure gets a code
            await abort(context, as_hilum_error(error))
        return _to_message(model)


async def _send_steps(
    change: _Change, context: ServicerContext
) -> AsyncIterator[pb.ModelChangeProgress]:
    """Yield the steps of a change as they are reached. A caller that leaves does not end it."""
    steps: asyncio.Queue[Progress | None] = asyncio.Queue()

    async def run() -> None:
        try:
            await change(steps.put_nowait)
        finally:
            steps.put_nowait(None)

    running = asyncio.ensure_future(run())
    while (progress := await steps.get()) is not None:
        yield pb.ModelChangeProgress(
            step=progress.step, reason=progress.reason, is_final=progress.is_final
        )
        if progress.is_final:
            return  # The old model is closed without the caller.
    try:
        await running
    except Exception as error:  # noqa: BLE001  # the boundary: every failure gets a code
        await abort(context, as_hilum_error(error))


def _to_path(text: str) -> Path:
    path = Path(text)
    if not text or not path.is_absolute():
        raise InvalidRequest(
            "The bundle's path is not absolute.", hint="Name a file on the agent's machine."
        )
    return path


def _to_message(model: ServedModelStatus) -> pb.ServedModelStatus:
    message = pb.ServedModelStatus(
        name=model.name,
        version=model.version,
        bundle_digest=model.bundle_digest,
        engine=model.engine,
        engine_reason=model.engine_reason,
        previous_digest=model.previous_digest,
        change_step=model.change_step,
    )
    if (shadow := model.shadow) is not None:
        message.shadow_name = shadow.name
        message.shadow_version = shadow.version
        message.shadow_digest = shadow.bundle_digest
        message.shadow_agreement.CopyFrom(_to_agreement(shadow))
    return message


def _to_agreement(shadow: ShadowStatus) -> pb.ShadowAgreement:
    return pb.ShadowAgreement(
        images=shadow.agreement.images,
        skipped=shadow.skipped,
        failed=shadow.failed,
        findings=[
            pb.FindingAgreement(
                slug=CATALOG[index].slug,
                matched=counts.matched,
                active_only=counts.active_only,
                shadow_only=counts.shadow_only,
                mean_score_difference=counts.difference_sum / max(1, counts.matched),
            )
            for index, counts in sorted(shadow.agreement.by_class.items())
        ],
    )
