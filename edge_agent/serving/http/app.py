"""The HTTP API as one application: routes, their OpenAPI description, errors, the viewer."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final

from fastapi import FastAPI, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from edge_agent.core.admission import ByteBudget
from edge_agent.core.lifecycle import Lifecycle
from edge_agent.core.request_origin import TrustedHosts
from edge_agent.errors import HilumError
from edge_agent.serving.http.access import AccessControl, make_validation_handler
from edge_agent.serving.http.endpoints import Detector, Endpoints, HttpLimits, ImageRenderer
from edge_agent.serving.http.errors import (
    ErrorBody,
    handle_disconnect,
    handle_hilum_error,
    handle_http_exception,
)
from edge_agent.serving.http.middleware import SecurityMiddleware
from edge_agent.serving.http.schemas import BatchResponse, ModelInfo, PredictResponse, Status
from edge_agent.serving.http.static_files import load_static_files
from edge_agent.viewer import FOLDER

_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    401: {"model": ErrorBody, "description": "The caller is not known."},
    403: {"model": ErrorBody, "description": "The caller may not do this."},
    404: {"model": ErrorBody, "description": "The agent serves no model of this name."},
    413: {"model": ErrorBody, "description": "The body is too large."},
    422: {"model": ErrorBody, "description": "The image is refused, or the request is wrong."},
    500: {"model": ErrorBody, "description": "This machine failed; its operator must act."},
    503: {"model": ErrorBody, "description": "Overloaded or not ready; see `Retry-After`."},
    504: {"model": ErrorBody, "description": "The deadline passed before the work was started."},
}


def _describe_form(field: str, *, several: bool = False) -> dict[str, Any]:
    """Return OpenAPI's description of a form, which FastAPI does not parse here."""
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
    get_service: Callable[[], Detector],
    renderer: Callable[[], ImageRenderer],
    model_info: Callable[[str], ModelInfo],
    lifecycle: Lifecycle,
    metrics: Callable[[], bytes],
    access: AccessControl,
    trusted_hosts: TrustedHosts,
    limits: HttpLimits | None = None,
) -> FastAPI:
    """Build the application.

    Args:
        get_service: returns the detection service to use now; raises NotReady if there is none.
        renderer: returns the renderer to use now; raises NotReady if there is none.
        model_info: returns the facts about the model of a name, the default for an empty one;
            raises NotReady or UnknownModel if there is none.
        lifecycle: the agent's; says whether requests are accepted and will be answered.
        metrics: returns all metrics in Prometheus' text format 0.0.4.
        access: authorizes each request before its body is read.
        trusted_hosts: the hosts and origins that requests may name.
        limits: the limits of uploads.

    Returns:
        An ASGI application.
    """
    limits = limits or HttpLimits()
    app = FastAPI(
        title="Hilum edge agent",
        version=version("hilum"),
        description="Detects and boxes abnormalities on frontal chest radiographs. "
        "RESEARCH USE ONLY: not for diagnosis.",
        docs_url=None,  # FastAPI's page loads scripts from another host. The viewer has `/docs`.
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(
        SecurityMiddleware, trusted_hosts=trusted_hosts, record_denial=access.record_denial
    )
    app.add_exception_handler(HilumError, handle_hilum_error)
    app.add_exception_handler(HTTPException, handle_http_exception)
    app.add_exception_handler(RequestValidationError, make_validation_handler(access))
    app.add_exception_handler(ClientDisconnect, handle_disconnect)
    _add_routes(
        app,
        Endpoints(
            get_service=get_service,
            renderer=renderer,
            model_info=model_info,
            lifecycle=lifecycle,
            metrics=metrics,
            access=access,
            limits=limits,
            budget=ByteBudget(limits.max_buffered_bytes),
        ),
    )
    # No key is needed for these: a browser has none before it has the page, and the files hold
    # no data of any patient.
    for path, file in load_static_files(FOLDER).items():
        app.add_route(path, file.respond, methods=["GET", "HEAD"], include_in_schema=False)
    return app


def _add_routes(app: FastAPI, endpoints: Endpoints) -> None:
    app.post(
        "/predict",
        summary="Detect findings on one study image",
        response_model=PredictResponse,
        responses=_ERRORS,
        openapi_extra=_describe_form("file"),
    )(endpoints.predict)
    app.post(
        "/predict/batch",
        summary="Detect findings on several study images",
        description="Results come in the order sent. A file that fails does not affect the others: "
        "its item carries the status and error that /predict would have given.",
        response_model=BatchResponse,
        responses=_ERRORS,
        openapi_extra=_describe_form("files", several=True),
    )(endpoints.predict_batch)
    app.post(
        "/render",
        summary="Draw one study image",
        description="An 8-bit greyscale PNG, windowed as the file says.",
        response_class=Response,
        responses={**_ERRORS, 200: {"content": {"image/png": {}}, "description": "The image."}},
        openapi_extra=_describe_form("file"),
    )(endpoints.render)
    app.get(
        "/model",
        summary="The model in use",
        response_model=ModelInfo,
        responses={404: _ERRORS[404]},
    )(endpoints.get_model)
    app.get("/healthz", summary="The process runs", response_model=Status)(endpoints.get_health)
    app.get(
        "/readyz",
        summary="Requests will be answered",
        response_model=Status,
        responses={503: _ERRORS[503]},
    )(endpoints.get_readiness)
    app.get("/metrics", summary="Prometheus metrics", response_class=Response)(
        endpoints.get_metrics
    )
