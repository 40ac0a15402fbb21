"""What each HTTP address does: convert, call, convert."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Final, Protocol, TypeVar

from fastapi import Query, Request, Response
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from edge_agent.core.admission import ByteBudget, Priority
from edge_agent.core.authorization import Action
from edge_agent.errors import InvalidRequest, NotReady
from edge_agent.serving.detection import check_model_name
from edge_agent.serving.error_boundary import coded
from edge_agent.serving.http.access import AccessControl
from edge_agent.serving.http.errors import BodyTooLarge, error_detail, status_of
from edge_agent.serving.http.multipart import Form, FormLimits, UploadedFile, receive_form
from edge_agent.serving.http.schemas import (
    BatchItem,
    BatchResponse,
    ModelInfo,
    Options,
    PredictResponse,
    Status,
)
from edge_agent.serving.types import DetectionRequest, DetectionResult

PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"
# Boundaries, part headers and fields come on top of the files' own bytes.
_FORM_OVERHEAD_BYTES: Final = 64 << 10
_T = TypeVar("_T")
_Asking = Callable[[bytes, str], DetectionRequest]


class Detector(Protocol):
    """What answers study requests: `serving.pipeline.Pipeline`."""

    async def detect(self, request: DetectionRequest) -> DetectionResult:
        """Look at one study image."""
        ...


class ImageRenderer(Protocol):
    """What draws study images: `serving.http_render.Renderer`."""

    async def render(self, image: bytes) -> bytes:
        """Draw one study image as PNG."""
        ...


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one caller may send, and what all of them may at once."""

    max_image_bytes: int = 128 << 20
    max_batch_bytes: int = 256 << 20
    max_batch_files: int = 64
    max_buffered_bytes: int = 512 << 20
    batch_concurrency: int = 4
    upload_timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The handlers and what they call.

    Attributes:
        pipeline: gives the pipeline to use now; raises NotReady while there is none.
        renderer: gives the renderer to use now; raises NotReady while there is none.
        model_info: gives the facts of the model in use; raises NotReady while there is none.
        readiness: why the agent is not ready, or an empty string if it is.
        metrics: all metrics in Prometheus' text format 0.0.4.
        access: who may do what; asked before a request's body is read.
        limits: what may be sent.
        budget: the bytes of all uploads in memory.
    """

    pipeline: Callable[[], Detector]
    renderer: Callable[[], ImageRenderer]
    model_info: Callable[[], ModelInfo]
    readiness: Callable[[], str]
    metrics: Callable[[], bytes]
    access: AccessControl
    limits: HttpLimits
    budget: ByteBudget

    async def predict(self, request: Request, query: Annotated[Options, Query()]) -> Response:
        """Look at one study image."""
        async with (
            self.access.enter(request, Action.DETECT) as visit,
            receive_form(request, self._one_file(), self.budget) as form,
        ):
            options = _options(query, form)
            visit.request_id = options.request_id or uuid.uuid4().hex
            image = self._image(_files(form, "file")[0])
            study = _asking(options)(image, visit.request_id)
            answer = await _unless_gone(request, self.pipeline().detect(study))
            visit.bundle_digest = answer.bundle_digest
        return _json(PredictResponse.of(answer))

    async def predict_batch(self, request: Request, query: Annotated[Options, Query()]) -> Response:
        """Look at several study images; answer in the order sent; a bad file fails alone."""
        async with (
            self.access.enter(request, Action.DETECT) as visit,
            receive_form(request, self._many_files(), self.budget) as form,
        ):
            options = _options(query, form)
            visit.request_id = options.request_id or uuid.uuid4().hex
            files = _files(form, "files")
            self.pipeline()  # Not ready: refused as a whole, before any of it is worked on.
            places = asyncio.Semaphore(self.limits.batch_concurrency)
            asking = _asking(options)  # With one deadline, the caller's, for all of it together.
            items = [
                self._batch_item(index, file, asking, visit.request_id, places)
                for index, file in enumerate(files)
            ]
            results = await _unless_gone(request, _all(items))
            answers = [it.result for it in results if it.result is not None]
            visit.bundle_digest = answers[0].bundle_digest if answers else ""
        return _json(BatchResponse(results=results))

    async def _batch_item(
        self,
        index: int,
        file: UploadedFile,
        asking: _Asking,
        batch_id: str,
        places: asyncio.Semaphore,
    ) -> BatchItem:
        async with places:
            try:
                request_id = f"{batch_id[:120]}-{index}"
                study = asking(self._image(file), request_id)
                answer = await self.pipeline().detect(study)
            except Exception as error:  # noqa: BLE001  # the boundary: every failure gets a code
                failure = coded(error)
                return BatchItem(
                    index=index, status=status_of(failure), error=error_detail(failure)
                )
        return BatchItem(index=index, status=200, result=PredictResponse.of(answer))

    async def render(self, request: Request) -> Response:
        """Draw one study image."""
        async with (
            self.access.enter(request, Action.DETECT),
            receive_form(request, self._one_file(), self.budget) as form,
        ):
            image = self._image(_files(form, "file")[0])
            png = await _unless_gone(request, self.renderer().render(image))
        return Response(png, media_type="image/png")

    async def model(
        self, request: Request, model: Annotated[str, Query(max_length=128)] = ""
    ) -> Response:
        """Which model answers, and on which engine."""
        async with self.access.enter(request, Action.MODEL):
            info = self.model_info()
            check_model_name(model, info.name)
            return _json(info)

    async def healthz(self, request: Request) -> Response:
        """The process is up."""
        async with self.access.enter(request, Action.HEALTH):
            return _json(Status(status="ok"))

    async def readyz(self, request: Request) -> Response:
        """Requests will be answered; 503 with the reason while they will not."""
        async with self.access.enter(request, Action.HEALTH):
            reason = self.readiness()
            if reason:
                raise NotReady(reason)
            return _json(Status(status="ready"))

    async def metrics_page(self, request: Request) -> Response:
        """All metrics."""
        async with self.access.enter(request, Action.METRICS):
            return Response(self.metrics(), headers={"Content-Type": PROMETHEUS})

    def _one_file(self) -> FormLimits:
        return FormLimits(
            max_body_bytes=self.limits.max_image_bytes + _FORM_OVERHEAD_BYTES,
            max_file_bytes=self.limits.max_image_bytes,
            max_files=1,
            timeout_s=self.limits.upload_timeout_s,
        )

    def _many_files(self) -> FormLimits:
        return FormLimits(
            max_body_bytes=self.limits.max_batch_bytes + _FORM_OVERHEAD_BYTES,
            max_file_bytes=self.limits.max_image_bytes,
            max_files=self.limits.max_batch_files,
            timeout_s=self.limits.upload_timeout_s,
        )

    def _image(self, file: UploadedFile) -> bytes:
        if file.data is None:
            raise BodyTooLarge(
                f"The file is larger than {self.limits.max_image_bytes / 2**20:.0f} MiB.",
                hint="Send a smaller file.",
            )
        return file.data


def _options(query: Options, form: Form) -> Options:
    """Form fields win over the query; both are checked as one."""
    return Options.parse({**query.model_dump(exclude_unset=True), **form.fields})


def _files(form: Form, field: str) -> tuple[UploadedFile, ...]:
    if not form.files or any(file.field_name != field for file in form.files):
        raise InvalidRequest(
            f"The form has no file in the field {field!r}."
            if not form.files
            else f"The form has a file in a field other than {field!r}.",
            hint=f"curl -F {field}=@image.dcm",
        )
    return form.files


def _asking(options: Options) -> _Asking:
    """What makes a request of an image and an id; its deadline counts from now."""
    timeout_s = options.timeout_s
    deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s

    def asking(image: bytes, request_id: str) -> DetectionRequest:
        return DetectionRequest(
            request_id=request_id,
            image=image,
            score_threshold=options.threshold,
            priority=Priority(options.priority),
            deadline=deadline,
            model=options.model,
        )

    return asking


async def _all(items: list[Coroutine[Any, Any, BatchItem]]) -> list[BatchItem]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(item) for item in items]
    return [task.result() for task in tasks]


async def _unless_gone(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """Do the work, but cancel it as soon as the caller hangs up.

    Raises:
        ClientDisconnect: the caller has gone.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return await working
    finally:
        for task in (working, gone):
            if not task.done():
                task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    # The body has been read: all that can still come is that the caller goes.
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json(body: BaseModel) -> Response:
    return Response(body.model_dump_json(by_alias=True), media_type="application/json")
