"""The endpoints of the HTTP API."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final, Protocol, TypeVar

from fastapi import Query, Request, Response
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from edge_agent.core.admission import ByteBudget, Priority
from edge_agent.core.authorization import Action
from edge_agent.core.lifecycle import Lifecycle
from edge_agent.errors import InvalidRequest
from edge_agent.serving.access_control import AccessRecord
from edge_agent.serving.detection import Detect
from edge_agent.serving.error_boundary import as_hilum_error
from edge_agent.serving.http.access import AccessControl
from edge_agent.serving.http.converters import to_predict_response
from edge_agent.serving.http.errors import BodyTooLarge, status_of, to_error_detail
from edge_agent.serving.http.multipart import Form, FormLimits, UploadedFile, receive_form
from edge_agent.serving.http.schemas import (
    BatchItem,
    BatchResponse,
    ModelInfo,
    Options,
    Status,
)
from edge_agent.serving.types import DetectionRequest, DetectionResult

PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"
# For boundaries, part headers and fields, which come in addition to the files' own bytes.
_FORM_OVERHEAD_BYTES: Final = 64 << 10
_T = TypeVar("_T")
_RequestFactory = Callable[[bytes, str], DetectionRequest]


class Detector(Protocol):
    """Answers detection requests; implemented by `serving.detection.DetectionService`."""

    async def detect(self, request: DetectionRequest) -> DetectionResult:
        """Detect findings on one study image."""
        ...

    def pin(self, name: str = "") -> AbstractContextManager[Detect]:
        """Lease a model for several requests; yields `detect` with that model."""
        ...


class ImageRenderer(Protocol):
    """Draws study images; implemented by `serving.render.Renderer`."""

    async def render(self, image: bytes) -> bytes:
        """Draw one study image as PNG."""
        ...


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """The limits of one upload, and of all uploads together (`max_buffered_bytes`)."""

    max_image_bytes: int = 128 << 20
    max_batch_bytes: int = 256 << 20
    max_batch_files: int = 64
    max_buffered_bytes: int = 512 << 20
    batch_concurrency: int = 4
    upload_timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class _Batch:
    """What the images of one batch have in common."""

    detect: Detect
    make_request: _RequestFactory
    id: str
    limit: asyncio.Semaphore


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The endpoints and the parts that they call.

    Attributes:
        get_service: returns the detection service to use now; raises NotReady if there is none.
        renderer: returns the renderer to use now; raises NotReady if there is none.
        model_info: returns the facts about the model of a name, the default for an empty one;
            raises NotReady or UnknownModel if there is none.
        lifecycle: the agent's; says whether requests are accepted and will be answered.
        metrics: returns all metrics in Prometheus' text format 0.0.4.
        access: authorizes each request before its body is read.
        limits: the limits of uploads.
        budget: the bytes of all uploads in memory.
    """

    get_service: Callable[[], Detector]
    renderer: Callable[[], ImageRenderer]
    model_info: Callable[[str], ModelInfo]
    lifecycle: Lifecycle
    metrics: Callable[[], bytes]
    access: AccessControl
    limits: HttpLimits
    budget: ByteBudget

    async def predict(self, request: Request, query: Annotated[Options, Query()]) -> Response:
        """Detect findings on one study image."""
        async with (
            self._accept(request) as access,
            receive_form(request, self._form_limits(max_files=1), self.budget) as form,
        ):
            options = _merge_options(query, form)
            access.request_id = options.request_id or uuid.uuid4().hex
            image = self._take_image(_get_files(form, "file")[0])
            detection = _request_factory(options)(image, access.request_id)
            result = await _cancel_on_disconnect(request, self.get_service().detect(detection))
            access.bundle_digest = result.bundle_digest
        return _to_json(to_predict_response(result))

    async def predict_batch(self, request: Request, query: Annotated[Options, Query()]) -> Response:
        """Detect findings on several study images.

        Results come in the order sent, and a file that fails does not affect the others.
        """
        form_limits = self._form_limits(max_files=self.limits.max_batch_files)
        async with (
            self._accept(request) as access,
            receive_form(request, form_limits, self.budget) as form,
        ):
            options = _merge_options(query, form)
            access.request_id = options.request_id or uuid.uuid4().hex
            files = _get_files(form, "files")
            # If there is no such model, the batch is refused as a whole. One model answers it all.
            with self.get_service().pin(options.model) as detect:
                batch = _Batch(
                    detect,
                    _request_factory(options),  # One deadline for the whole batch.
                    access.request_id,
                    asyncio.Semaphore(self.limits.batch_concurrency),
                )
                items = [self._detect_item(index, file, batch) for index, file in enumerate(files)]
                results = await _cancel_on_disconnect(request, _gather(items))
            answered = [item.result for item in results if item.result is not None]
            access.bundle_digest = answered[0].bundle_digest if answered else ""
        return _to_json(BatchResponse(results=results))

    async def _detect_item(self, index: int, file: UploadedFile, batch: _Batch) -> BatchItem:
        async with batch.limit:
            try:
                request_id = f"{batch.id[:120]}-{index}"
                detection = batch.make_request(self._take_image(file), request_id)
                result = await batch.detect(detection)
            except Exception as error:  # noqa: BLE001  # the boundary: every failure gets a code
                failure = as_hilum_error(error)
                return BatchItem(
                    index=index, status=status_of(failure), error=to_error_detail(failure)
                )
        return BatchItem(index=index, status=200, result=to_predict_response(result))

    async def render(self, request: Request) -> Response:
        """Draw one study image."""
        async with (
            self._accept(request),
            receive_form(request, self._form_limits(max_files=1), self.budget) as form,
        ):
            image = self._take_image(_get_files(form, "file")[0])
            png = await _cancel_on_disconnect(request, self.renderer().render(image))
        return Response(png, media_type="image/png")

    async def get_model(
        self, request: Request, model: Annotated[str, Query(max_length=128)] = ""
    ) -> Response:
        """Return the facts about the model in use and its engine."""
        async with self.access.authorize(request, Action.MODEL):
            self.lifecycle.require_open()
            return _to_json(self.model_info(model))

    async def get_health(self, request: Request) -> Response:
        """Answer while the process runs."""
        async with self.access.authorize(request, Action.HEALTH):
            return _to_json(Status(status="ok"))

    async def get_readiness(self, request: Request) -> Response:
        """Answer if requests will be answered; 503 with the reason if they will not."""
        async with self.access.authorize(request, Action.HEALTH):
            error = self.lifecycle.error()
            if error is not None:
                raise error
            return _to_json(Status(status="ready"))

    async def get_metrics(self, request: Request) -> Response:
        """Return all metrics."""
        async with self.access.authorize(request, Action.METRICS):
            return Response(self.metrics(), headers={"Content-Type": PROMETHEUS})

    @asynccontextmanager
    async def _accept(self, request: Request) -> AsyncIterator[AccessRecord]:
        """Authorize a request with an image, before its body is read.

        A request that was accepted before the agent began to stop is answered, even if its upload
        ends later.
        """
        async with self.access.authorize(request, Action.DETECT) as access:
            self.lifecycle.require_open()
            yield access

    def _form_limits(self, *, max_files: int) -> FormLimits:
        limits = self.limits
        files_bytes = limits.max_image_bytes if max_files == 1 else limits.max_batch_bytes
        return FormLimits(
            max_body_bytes=files_bytes + _FORM_OVERHEAD_BYTES,
            max_file_bytes=limits.max_image_bytes,
            max_files=max_files,
            timeout_s=limits.upload_timeout_s,
        )

    def _take_image(self, file: UploadedFile) -> bytes:
        if file.data is None:
            raise BodyTooLarge(
                f"The file is larger than {self.limits.max_image_bytes / 2**20:.0f} MiB.",
                hint="Send a smaller file.",
            )
        return file.data


def _merge_options(query: Options, form: Form) -> Options:
    """Return the query's options, overridden by form fields, and validated together."""
    return Options.parse({**query.model_dump(exclude_unset=True), **form.fields})


def _get_files(form: Form, field: str) -> tuple[UploadedFile, ...]:
    if not form.files or any(file.field_name != field for file in form.files):
        raise InvalidRequest(
            f"The form has no file in the field {field!r}."
            if not form.files
            else f"The form has a file in a field other than {field!r}.",
            hint=f"curl -F {field}=@image.dcm",
        )
    return form.files


def _request_factory(options: Options) -> _RequestFactory:
    """Return a function from an image and an id to a request. Its deadline counts from now."""
    timeout_s = options.timeout_s
    deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s

    def make_request(image: bytes, request_id: str) -> DetectionRequest:
        return DetectionRequest(
            request_id=request_id,
            image=image,
            score_threshold=options.threshold,
            priority=Priority(options.priority),
            deadline=deadline,
            model=options.model,
        )

    return make_request


async def _gather(items: list[Coroutine[Any, Any, BatchItem]]) -> list[BatchItem]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(item) for item in items]
    return [task.result() for task in tasks]


async def _cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine, but cancel it as soon as the caller disconnects.

    Raises:
        ClientDisconnect: the caller has disconnected.
    """
    working = asyncio.ensure_future(work)
    disconnected = asyncio.ensure_future(_wait_disconnect(request))
    try:
        await asyncio.wait({working, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return await working
    finally:
        for task in (working, disconnected):
            if not task.done():
                task.cancel()
        await asyncio.gather(working, disconnected, return_exceptions=True)


async def _wait_disconnect(request: Request) -> None:
    # The body has been read: the only message that can still come is the disconnect.
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _to_json(body: BaseModel) -> Response:
    return Response(body.model_dump_json(by_alias=True), media_type="application/json")
