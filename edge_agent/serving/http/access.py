"""The gate in front of each HTTP address."""

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
from edge_agent.serving.access_records import (
    AccessController,
    AccessRecord,
    Audit,
    Count,
    Gate,
    ignore,
)
from edge_agent.serving.http.errors import error_response, invalid_options


class AccessControl(Protocol):
    """Who may do what."""

    def enter(self, request: Request, action: Action) -> AbstractAsyncContextManager[AccessRecord]:
        """Let a caller in for as long as the block runs.

        Raises:
            Unauthenticated, Forbidden: not this caller, or not this action.
            AuditUnavailable: the access cannot be logged.
        """
        ...

    def turned_away(self, denied: Denied) -> None:
        """Note a request that was denied before it reached any address."""
        ...


class HttpAccessControl:
    """Implements `AccessControl` with a gatekeeper and, where one is kept, the audit log."""

    def __init__(self, gate: Gate, audit: Audit | None = None, count: Count = ignore) -> None:
        self._visits = AccessController(gate, audit, count, hung_up=ClientDisconnect)

    @asynccontextmanager
    async def enter(self, request: Request, action: Action) -> AsyncIterator[AccessRecord]:
        """See `AccessControl.enter`."""
        peer = request.client.host if request.client else ""
        with self._visits.enter(read_http_credentials(peer, request.headers.raw), action) as visit:
            yield visit

    def turned_away(self, denied: Denied) -> None:
        """See `AccessControl.turned_away`."""
        self._visits.deny(denied, Action.PAGE)

    def give_up(self) -> None:
        """Log what is still under way, before the process ends without waiting for it."""
        self._visits.give_up()


def on_wrong_options(access: AccessControl) -> Callable[[Request, Exception], Awaitable[Response]]:
    """What answers options that do not fit, which FastAPI finds before any address is entered.

    Strangers are told nothing about them, and the log hears of it either way. Only what looks at
    images takes options.
    """

    async def answer(request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise TypeError(f"not a RequestValidationError: {type(error).__name__}")
        try:
            async with access.enter(request, Action.DETECT):
                raise invalid_options(list(error.errors()))
        except HilumError as refused:
            return error_response(refused)

    return answer
