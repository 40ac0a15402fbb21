"""Maps Hilum's errors to gRPC status codes and to the metadata beside them."""

from __future__ import annotations

import math
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
    UnknownModel,
)
from edge_agent.serving.grpc.call_tracker import ServicerContext
from edge_agent.serving.grpc.converters import to_error_message

ERROR_METADATA: Final = "hilum-error-bin"
RETRY_METADATA: Final = "hilum-retry-after-ms"

# The first class that matches counts, so subclasses are listed before their base classes.
_STATUS: Final[tuple[tuple[type[HilumError], grpc.StatusCode], ...]] = (
    (Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (UnknownModel, grpc.StatusCode.NOT_FOUND),
    (CallerError, grpc.StatusCode.INVALID_ARGUMENT),
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
    (NotReady, grpc.StatusCode.UNAVAILABLE),
    (TryLater, grpc.StatusCode.UNAVAILABLE),
    (HilumError, grpc.StatusCode.INTERNAL),
)


def status_of(error: HilumError) -> grpc.StatusCode:
    """Return the gRPC status code of an error; it shows who must act."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


async def abort(context: ServicerContext, error: HilumError) -> NoReturn:
    """End the call with the error's status, its message as details and `Error` as metadata.

    If the error has a `retry_after_s`, the metadata `hilum-retry-after-ms` carries it.
    """
    metadata: tuple[tuple[str, str | bytes], ...] = (
        (ERROR_METADATA, to_error_message(error).SerializeToString()),
    )
    if isinstance(error, TryLater) and error.retry_after_s is not None:
        metadata += ((RETRY_METADATA, str(math.ceil(error.retry_after_s * 1e3))),)
    await context.abort(status_of(error), error.message, metadata)
