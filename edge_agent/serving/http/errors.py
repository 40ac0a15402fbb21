"""Maps Hilum's errors to HTTP responses. Every failure has the same form."""

from __future__ import annotations

import json
import math
from typing import Final

from pydantic import BaseModel, ConfigDict
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edge_agent.errors import (
    CallerError,
    DeadlineExceeded,
    Forbidden,
    HilumError,
    InvalidRequest,
    TryLater,
    Unauthenticated,
    UnknownModel,
)
from edge_agent.serving.error_boundary import as_hilum_error
from hilum.codes import ErrorCode

RETRY_AFTER_S: Final = 1
"""Sent when the error itself has no `retry_after_s`."""
NO_STORE: Final = {"Cache-Control": "no-store"}
_MAX_QUOTED: Final = 40


class BodyTooLarge(InvalidRequest):
    """The body is larger than the limit; the rest of it was not kept."""

    default_code = ErrorCode.TOO_LARGE


class HeadersTooLarge(InvalidRequest):
    """The headers are larger than the limit."""

    default_code = ErrorCode.TOO_LARGE


class BodyTooSlow(InvalidRequest):
    """The upload did not end in time."""


# The first class that matches counts, so subclasses are listed before their base classes.
_STATUS: Final[tuple[tuple[type[HilumError], int], ...]] = (
    (BodyTooLarge, 413),
    (BodyTooSlow, 408),
    (HeadersTooLarge, 431),
    (Unauthenticated, 401),
    (Forbidden, 403),
    (UnknownModel, 404),
    (CallerError, 422),
    (DeadlineExceeded, 504),
    (TryLater, 503),
    (HilumError, 500),
)


class ErrorDetail(BaseModel):
    """The reason of a failure."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    code: str
    """A stable code, see `hilum.codes.ErrorCode`."""
    message: str
    """The reason, for people."""
    hint: str
    """The action that may help."""


class ErrorBody(BaseModel):
    """The body of every failure."""

    error: ErrorDetail


def status_of(error: HilumError) -> int:
    """Return the HTTP status code of an error."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def to_error_detail(error: HilumError) -> ErrorDetail:
    """Convert an error; the response carries its code, message and hint and nothing else."""
    return ErrorDetail(code=error.code, message=error.message, hint=error.hint)


def to_error_response(error: HilumError, *, status: int | None = None) -> JSONResponse:
    """Convert an error to a response; `status` replaces the error's own status code."""
    status = status_of(error) if status is None else status
    headers = dict(NO_STORE)
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="hilum"'
    if isinstance(error, TryLater) and not isinstance(error, DeadlineExceeded):
        headers["Retry-After"] = str(math.ceil(error.retry_after_s or RETRY_AFTER_S))
    return JSONResponse(
        ErrorBody(error=to_error_detail(error)).model_dump(), status_code=status, headers=headers
    )


async def handle_hilum_error(_request: Request, error: Exception) -> Response:
    """Respond to one of the agent's own errors."""
    return to_error_response(as_hilum_error(error))


async def handle_http_exception(_request: Request, error: Exception) -> Response:
    """Respond to the router's own errors: unknown paths and methods."""
    if not isinstance(error, HTTPException):
        raise TypeError(f"not an HTTPException: {type(error).__name__}")
    message = {
        404: "There is nothing at this address.",
        405: "This address does not accept this method.",
    }.get(error.status_code, "The request cannot be served.")
    refused = InvalidRequest(message, hint="GET /docs lists every address and method.")
    response = to_error_response(refused, status=error.status_code)
    response.headers.update(error.headers or {})
    return response


async def handle_disconnect(_request: Request, _error: Exception) -> Response:
    """Return a response that the caller, who has disconnected, does not get (nginx's 499)."""
    return Response(status_code=499)


def invalid_options_error(problems: list[ErrorDetails]) -> InvalidRequest:
    """Return an error that names the options that are wrong, without repeating their values."""
    listed = "; ".join(
        f"{quote(str(problem['loc'][-1]) if problem['loc'] else 'request')}: "
        + (
            "there is no such option"
            if problem["type"] == "extra_forbidden"
            else problem["msg"].removeprefix("Value error, ")
        )
        for problem in problems
    )
    return InvalidRequest(
        f"The request's options cannot be used: {listed}.", hint="GET /docs lists the options."
    )


def quote(text: str) -> str:
    """Return text of a caller in a form that is safe to repeat: short, printable, in quotes."""
    short = text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}..."
    return json.dumps(short)
