"""Errors as HTTP answers: one mapping, one form, for every failure there is."""

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
from edge_agent.serving.error_boundary import coded
from hilum.codes import ErrorCode

RETRY_AFTER_S: Final = 1
"""What a caller is told where the error itself does not know better."""
NO_STORE: Final = {"Cache-Control": "no-store"}
_MAX_ECHO: Final = 40


class BodyTooLarge(InvalidRequest):
    """More bytes were sent than are taken; the rest was not kept."""

    default_code = ErrorCode.TOO_LARGE


class HeadersTooLarge(InvalidRequest):
    """More bytes of headers were sent than are taken."""

    default_code = ErrorCode.TOO_LARGE


class BodyTooSlow(InvalidRequest):
    """The upload did not end in time."""


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
    """Why there is no answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    code: str
    """A stable code, see `hilum.codes.ErrorCode`."""
    message: str
    """What is wrong."""
    hint: str
    """What to do about it."""


class ErrorBody(BaseModel):
    """The one form of every failure."""

    error: ErrorDetail


def status_of(error: HilumError) -> int:
    """The one mapping from errors to HTTP's status codes."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def error_detail(error: HilumError) -> ErrorDetail:
    """What the caller is told: the error's own sentences and nothing else."""
    return ErrorDetail(code=error.code, message=error.message, hint=error.hint)


def error_response(error: HilumError, *, status: int | None = None) -> JSONResponse:
    """The error as an answer."""
    status = status_of(error) if status is None else status
    headers = dict(NO_STORE)
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="hilum"'
    if isinstance(error, TryLater) and not isinstance(error, DeadlineExceeded):
        headers["Retry-After"] = str(math.ceil(error.retry_after_s or RETRY_AFTER_S))
    return JSONResponse(
        ErrorBody(error=error_detail(error)).model_dump(), status_code=status, headers=headers
    )


async def on_hilum_error(_request: Request, error: Exception) -> Response:
    """Answer one of our own errors."""
    return error_response(coded(error))


async def on_http_exception(_request: Request, error: Exception) -> Response:
    """Answer what the router itself refuses: unknown addresses and methods."""
    if not isinstance(error, HTTPException):
        raise TypeError(f"not an HTTPException: {type(error).__name__}")
    message = {
        404: "There is nothing at this address.",
        405: "This address does not take this method.",
    }.get(error.status_code, "The request cannot be served.")
    refused = InvalidRequest(message, hint="GET /docs lists every address and method.")
    response = error_response(refused, status=error.status_code)
    response.headers.update(error.headers or {})
    return response


async def on_disconnect(_request: Request, _error: Exception) -> Response:
    """The caller has gone; nobody reads this (nginx's 499, for the metrics)."""
    return Response(status_code=499)


def invalid_options(problems: list[ErrorDetails]) -> InvalidRequest:
    """Name the options that are wrong, and how, without repeating their values."""
    said = "; ".join(
        f"{quoted(str(problem['loc'][-1]) if problem['loc'] else 'request')}: "
        + (
            "there is no such option"
            if problem["type"] == "extra_forbidden"
            else problem["msg"].removeprefix("Value error, ")
        )
        for problem in problems
    )
    return InvalidRequest(
        f"The request's options cannot be used: {said}.", hint="GET /docs lists the options."
    )


def quoted(text: str) -> str:
    """A caller's own word, made safe to repeat: short, printable, in quotes."""
    short = text if len(text) <= _MAX_ECHO else f"{text[:_MAX_ECHO]}..."
    return json.dumps(short)
