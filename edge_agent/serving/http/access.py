"""Access control of HTTP requests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from fastapi.exceptions import RequestValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from edge_agent.core.authorization import Action, Denied
from edge_agent.errors import HilumError
from edge_agent.security.authentication import read_http_credentials
from edge_agent.serving.access_control import (
    AccessController,
    AccessRecord,
    AuditLog,
    Authenticator,
    CountAccess,
    count_nothing,
)
from edge_agent.serving.http.errors import invalid_options_error, to_error_response


class AccessControl(Protocol):
    """Authorizes HTTP requests and logs how each of them ended."""

    def authorize(
        self, request: Request, action: Action
    ) -> AbstractAsyncContextManager[AccessRecord]:
        """Authorize an access that lasts as long as the block, and log it at its end.

        Raises:
            Unauthenticated, Forbidden: not this caller, or not this action.
            AuditUnavailable: the access cannot be logged.
        """
        ...

    def record_denial(self, denied: Denied) -> None:
        """Count and log a request that was denied before it reached an endpoint."""
        ...


class HttpAccessControl:
    """Implements `AccessControl` with an authenticator and, if one is kept, the audit log."""

    def __init__(
        self,
        authenticator: Authenticator,
        audit: AuditLog | None = None,
        count: CountAccess = count_nothing,
    ) -> None:
        """Control a listener; see `AccessController`."""
        self._controller = AccessController(
            authenticator, audit, count, disconnect_error=ClientDisconnect
        )

    @asynccontextmanager
    async def authorize(self, request: Request, action: Action) -> AsyncIterator[AccessRecord]:
        """See `AccessControl.authorize`."""
        peer = request.client.host if request.client else ""
        caller = read_http_credentials(peer, request.headers.raw)
        with self._controller.authorize(caller, action) as access:
            yield access

    def record_denial(self, denied: Denied) -> None:
        """See `AccessControl.record_denial`."""
        self._controller.record_denial(denied, Action.PAGE)

    def record_abandoned(self) -> None:
        """See `AccessController.record_abandoned`."""
        self._controller.record_abandoned()


def make_validation_handler(
    access: AccessControl,
) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Return the handler of requests whose options FastAPI refuses before it calls an endpoint.

    An unauthorized caller gets no details, and the access is logged. Only the endpoints of
    `Action.DETECT` have options.
    """

    async def handle(request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise TypeError(f"not a RequestValidationError: {type(error).__name__}")
        try:
            async with access.authorize(request, Action.DETECT):
                raise invalid_options_error(list(error.errors()))
        except HilumError as refused:
            return to_error_response(refused)

    return handle
