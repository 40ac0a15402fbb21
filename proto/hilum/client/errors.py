"""The client's error: the agent's own message if it sent one, else one for the gRPC status."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import grpc
from google.protobuf.message import DecodeError

from hilum.codes import ClientErrorCode, ErrorCode
from hilum.v1 import detection_pb2 as pb

ERROR_METADATA: Final = "hilum-error-bin"
RETRY_AFTER_METADATA: Final = "hilum-retry-after-ms"

# The details of grpc.aio's own error if a stream ends while a request is being sent. They hide the
# status that the agent returned (grpc/aio/_call.py, _write).
_AIO_SEND_FAILED: Final = "Internal error from Core"

# The same request may succeed later without any action.
RETRYABLE: Final = frozenset(
    {
        ErrorCode.OVERLOADED,
        ErrorCode.DEADLINE_EXCEEDED,
        ErrorCode.NOT_READY,
        ClientErrorCode.UNREACHABLE,
    }
)


class DetectError(Exception):
    """A call that has no result.

    Attributes:
        code: one of `ErrorCode` or `ClientErrorCode`, or a newer agent's; stable, for programs.
        message: what is wrong, for people.
        hint: what to do about it; may be empty.
        retryable: True if the same request may succeed later without any action.
        retry_after_s: the wait in seconds that the agent asks for; None if it asks for none.
    """

    def __init__(
        self,
        code: str,
        message: str,
        hint: str = "",
        retryable: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(code, message, hint, retryable, retry_after_s)
        self.code = str(code)
        self.message = message
        self.hint = hint
        self.retryable = retryable
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip() + f" [{self.code}]"


def from_message(error: pb.Error, retry_after_s: float | None = None) -> DetectError:
    """Convert an error message of the agent."""
    return DetectError(
        error.code, error.message, error.hint, error.code in RETRYABLE, retry_after_s
    )


def from_rpc(error: grpc.RpcError) -> DetectError:
    """Convert a failed call: the trailing metadata's `Error`, else the gRPC status."""
    # AioRpcError's metadata is a sequence of pairs too, though grpc-stubs types them otherwise.
    trailing = _pairs(error.trailing_metadata() or ())
    retry_after_s = _parse_retry_after_s(trailing.get(RETRY_AFTER_METADATA))
    coded = _parse_error(trailing.get(ERROR_METADATA))
    if coded is not None:
        return from_message(coded, retry_after_s)
    return _from_status(error.code(), error.details() or "", retry_after_s)


def cancelled_error() -> DetectError:
    """Return the error of a call that this client cancelled, for example by `close`."""
    return DetectError(*_BY_STATUS[grpc.StatusCode.CANCELLED])


def _pairs(metadata: Iterable[object]) -> dict[str, str | bytes]:
    return {pair[0]: pair[1] for pair in metadata if isinstance(pair, tuple)}


def _parse_error(data: str | bytes | None) -> pb.Error | None:
    if not isinstance(data, bytes):
        return None
    try:
        error = pb.Error.FromString(data)
    except DecodeError:
        return None
    return error if error.code else None


def _parse_retry_after_s(text: str | bytes | None) -> float | None:
    if not isinstance(text, str) or not text.isascii() or not text.isdigit():
        return None
    return int(text) / 1000


def _from_status(status: grpc.StatusCode, details: str, retry_after_s: float | None) -> DetectError:
    if status is grpc.StatusCode.UNAVAILABLE:
        return _tls_error(details) if _mentions_tls(details) else _unreachable_error(details)
    if status is grpc.StatusCode.INTERNAL and details == _AIO_SEND_FAILED:
        return _unreachable_error("the call ended while a request was being sent")
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return DetectError(
            ErrorCode.TOO_LARGE,
            "The file is larger than the agent accepts.",
            "Send a smaller file, or have the agent's limit raised.",
        )
    code, message, hint = _BY_STATUS.get(status, _UNFORESEEN)
    return DetectError(code, message, hint, code in RETRYABLE, retry_after_s)


def _mentions_tls(details: str) -> bool:
    tls_words = ("handshake", "ssl", "certificate", "hostname verification")
    return any(word in details.lower() for word in tls_words)


def _unreachable_error(details: str) -> DetectError:
    return DetectError(
        ClientErrorCode.UNREACHABLE,
        f"The agent cannot be reached ({details}).",
        "Check that it runs, its address and port, and whether it expects TLS or a client's "
        "certificate (tls=).",
        retryable=True,
    )


def _tls_error(details: str) -> DetectError:
    return DetectError(
        ClientErrorCode.TLS_FAILED,
        f"No protected connection could be made ({details}).",
        "Check that the agent uses TLS, that ca= is the authority that signed its certificate, "
        "that the certificate names this address, and that nothing has expired.",
    )


_UNFORESEEN: Final = (
    ErrorCode.INTERNAL,
    "The agent failed and gave no reason.",
    "See the agent's log.",
)
_BY_STATUS: Final[dict[grpc.StatusCode, tuple[str, str, str]]] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        ErrorCode.DEADLINE_EXCEEDED,
        "There was no answer in the time allowed.",
        "Allow more time (timeout_s), send fewer images at once, or check the address.",
    ),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        ErrorCode.OVERLOADED,
        "The agent has more requests than it accepts.",
        "Try again in a moment.",
    ),
    grpc.StatusCode.UNAUTHENTICATED: (
        ErrorCode.UNAUTHENTICATED,
        "The agent does not know this caller.",
        "Give a valid api_key= or a client certificate (tls=).",
    ),
    grpc.StatusCode.PERMISSION_DENIED: (
        ErrorCode.FORBIDDEN,
        "The caller's role does not permit this.",
        "Ask the operator for a role that permits it.",
    ),
    grpc.StatusCode.INVALID_ARGUMENT: (
        ErrorCode.INVALID_REQUEST,
        "The agent did not accept the request.",
        "Check that the agent's and the client's versions are compatible.",
    ),
    grpc.StatusCode.NOT_FOUND: (
        ErrorCode.UNKNOWN_MODEL,
        "The agent serves no model of the requested name.",
        "Leave the name out, or use the one that `Client.model` returns.",
    ),
    grpc.StatusCode.UNIMPLEMENTED: (
        ClientErrorCode.NOT_AN_AGENT,
        "The server at this address does not offer this call.",
        "Check the address and port, and the agent's version.",
    ),
    grpc.StatusCode.CANCELLED: (
        ClientErrorCode.CANCELLED,
        "The call was cancelled before there was an answer.",
        "",
    ),
}
