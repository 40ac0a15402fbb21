"""The HTTP face as one application: addresses, their description, errors, pages, the shield."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final

from fastapi import FastAPI, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from edge_agent.core.admission import ByteBudget
from edge_agent.core.request_origin import TrustedHosts
from edge_agent.errors import HilumError
from edge_agent.serving.http.access import AccessControl, on_wrong_options
from edge_agent.serving.http.endpoints import Detector, Endpoints, HttpLimits, ImageRenderer
from edge_agent.serving.http.errors import (
    ErrorBody,
    on_disconnect,
    on_hilum_error,
    on_http_exception,
)
from edge_agent.serving.http.middleware import SecurityMiddleware
from edge_agent.serving.http.schemas import BatchResponse, ModelInfo, PredictResponse, Status
from edge_agent.serving.http.static_files import load_pages
from edge_agent.viewer import FOLDER

_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    401: {"model": ErrorBody, "description": "The caller is not known."},
    403: {"model": ErrorBody, "description": "The caller may not do this."},
    404: {"model": ErrorBody, "description": "The agent serves no model of this name."},
    413: {"model": ErrorBody, "description": "The body is too large."},
    422: {"model": ErrorBody, "description": "The image is refused, or the request is wrong."},
    500: {"model": ErrorBody, "description": "The box failed; its operator must act."},
    503: {"model": ErrorBody, "description": "Overloaded or not ready; see `Retry-After`."},
    504: {"model": ErrorBody, "description": "The deadline passed before the work was begun."},
}


def _form(field: str, *, several: bool = False) -> dict[str, Any]:
    """OpenAPI's description of a form that FastAPI does not parse itself."""
    file = {"type": "string", "format": "binary", "description": "DICOM, JPEG, PNG or TIFF."}
    schema = {
        "type": "object",
        "required": [field],
        "properties": {field: {"type": "array", "items": file} if several else file},
    }
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


def create_http_app(
    *,
    pipeline: Callable[[], Detector],
    renderer: Callable[[], ImageRenderer],
    model_info: Callable[[], ModelInfo],
    readiness: Callable[[], str],
    metrics: Callable[[], bytes],
    access: AccessControl,
    names: TrustedHosts,
    limits: HttpLimits | None = None,
) -> FastAPI:
    """Put the HTTP face together.

    Args:
        pipeline: gives the pipeline to use now; raises NotReady while there is none.
        renderer: gives the renderer to use now; raises NotReady while there is none.
        model_info: gives the facts of the model in use; raises NotReady while there is none.
        readiness: why the agent is not ready, or an empty string if it is.
        metrics: all metrics in Prometheus' text format 0.0.4.
        access: who may do what; asked before a request's body is read.
        names: what the page is called, against other sites' requests.
        limits: what may be sent.
    """
    limits = limits or HttpLimits()
    app = FastAPI(
        title="Hilum edge agent",
        version=version("hilum"),
        description="Finds and boxes abnormalities on frontal chest radiographs. "
        "RESEARCH USE ONLY: not for diagnosis.",
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere; ours is in the viewer.
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(SecurityMiddleware, names=names, turned_away=access.turned_away)
    app.add_exception_handler(HilumError, on_hilum_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(RequestValidationError, on_wrong_options(access))
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    _add_routes(
        app,
        Endpoints(
            pipeline=pipeline,
            renderer=renderer,
            model_info=model_info,
            readiness=readiness,
            metrics=metrics,
            access=access,
            limits=limits,
            budget=ByteBudget(limits.max_buffered_bytes),
        ),
    )
    # A browser cannot show a key before it has the page; the files hold nothing of anybody's.
    for address, page in load_pages(FOLDER).items():
        app.add_route(address, page.answer, methods=["GET", "HEAD"], include_in_schema=False)
    return app


def _add_routes(app: FastAPI, face: Endpoints) -> None:
    app.post(
        "/predict",
        summary="Look at one study image",
        response_model=PredictResponse,
        responses=_ERRORS,
        openapi_extra=_form("file"),
    )(face.predict)
    app.post(
        "/predict/batch",
        summary="Look at several study images",
        description="Answers come in the order sent. A file that fails does so alone: its item "
        "carries the status and error that /predict would have given.",
        response_model=BatchResponse,
        responses=_ERRORS,
        openapi_extra=_form("files", several=True),
    )(face.predict_batch)
    app.post(
        "/render",
        summary="Draw one study image",
        description="An 8-bit greyscale PNG, windowed as the file says.",
        response_class=Response,
        responses={**_ERRORS, 200: {"content": {"image/png": {}}, "description": "The picture."}},
        openapi_extra=_form("file"),
    )(face.render)
    app.get(
        "/model",
        summary="Which model answers",
        response_model=ModelInfo,
        responses={404: _ERRORS[404]},
    )(face.model)
    app.get("/healthz", summary="The process is up", response_model=Status)(face.healthz)
    app.get(
        "/readyz",
        summary="Requests will be answered",
        response_model=Status,
        responses={503: _ERRORS[503]},
    )(face.readyz)
    app.get("/metrics", summary="Prometheus metrics", response_class=Response)(face.metrics_page)
