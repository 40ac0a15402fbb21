"""Hilum's errors on gRPC: the one mapping to status codes, and the metadata beside them."""

from __future__ import annotations

import logging
from typing import Final, NoReturn

import grpc

from edge_agent.errors import (
    CallerError,
    DeadlineExceeded,
    Forbidden,
    HilumError,
    NotReady,
    Overloaded,
    TryLater,
    Unauthenticated,
)
from edge_agent.log import where_raised
from edge_agent.serving.grpc_context import Context
from edge_agent.serving.wire import error_message

ERROR_METADATA: Final = "hilum-error-bin"

# The first kind that fits counts, so the special ones stand before their own base.
_STATUS: Final[tuple[tuple[type[HilumError], grpc.StatusCode], ...]] = (
    (Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (CallerError, grpc.StatusCode.INVALID_ARGUMENT),
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
    (NotReady, grpc.StatusCode.UNAVAILABLE),
    (TryLater, grpc.StatusCode.UNAVAILABLE),
    (HilumError, grpc.StatusCode.INTERNAL),
)

log = logging.getLogger(__name__)


def status_of(error: HilumError) -> grpc.StatusCode:
    """The status code that says who must act."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def coded(error: Exception) -> HilumError:
    """The error itself; for one that nobody foresaw, a coded one that gives nothing away.

    What the operator must act on is logged.
    """
    if isinstance(error, HilumError):
        if status_of(error) is grpc.StatusCode.INTERNAL:
            log.error("request failed", extra={"code": error.code, "what": error.message})
        return error
    # An unforeseen error's own words may quote the file: only its kind and place are logged.
    log.error(
        "request failed unexpectedly",
        extra={"error": type(error).__name__, "at": where_raised(error)},
    )
    return HilumError(
        "The agent failed in a way it did not foresee.",
        hint="See the agent's log. If the same file fails again, keep it for the maintainers.",
    )


async def abort(context: Context, error: HilumError) -> NoReturn:
    """End the call with the error's status, its message as details and `Error` as metadata."""
    metadata = ((ERROR_METADATA, error_message(error).SerializeToString()),)
    await context.abort(status_of(error), error.message, metadata)
