"""The gate in front of each HTTP address: who asks, whether they may, and the log entry for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from starlette.requests import ClientDisconnect, Request

from edge_agent.core.access import Action, Denied, Identity, Principal, Reason
from edge_agent.core.audit import AuditEvent, access_event
from edge_agent.errors import HilumError
from edge_agent.serving.access import Caller, http_caller
from hilum.codes import ErrorCode

Count = Callable[[Action, ErrorCode | Reason | None], None]

UNLOGGED: Final = frozenset({Action.HEALTH, Action.METRICS})
"""Probes come every few seconds and see nothing of anybody's; only their denials are logged."""


@dataclass(slots=True)
class Visit:
    """One access under way. The handler fills in what it learns, for the log."""

    principal: Principal
    request_id: str = ""
    bundle_digest: str = ""


class Access(Protocol):
    """Who may do what."""

    def enter(self, request: Request, action: Action) -> AbstractAsyncContextManager[Visit]:
        """Let a caller in for as long as the block runs.

        Raises:
            Unauthenticated, Forbidden: not this caller, or not this action.
            AuditUnavailable: the access cannot be logged.
        """
        ...

    def turned_away(self, denied: Denied) -> None:
        """Note a request that was denied before it reached any address."""
        ...


class Gate(Protocol):
    """What knows the callers: `serving.access.Gatekeeper`."""

    def decide(self, action: Action, caller: Caller) -> Identity:
        """Say who is calling, if they may do this; else why not."""
        ...


class Audit(Protocol):
    """What logs the accesses: `serving.audit.AuditLog`."""

    def require(self) -> None:
        """Make sure that an access can be logged, or raise AuditUnavailable."""
        ...

    def record(self, event: AuditEvent) -> None:
        """Queue an entry."""
        ...

    def request_digest(self, request_id: str) -> str:
        """What the log holds instead of a request's id."""
        ...


def _ignore(_action: Action, _outcome: ErrorCode | Reason | None) -> None:
    """Nobody counts."""


class GuardedAccess:
    """Implements `Access` with a gatekeeper and, where one is kept, the audit log.

    `count` is told of every request when it ends: what was asked for, and the error's code or the
    reason of the denial; None means that it was answered as asked.
    """

    def __init__(self, gate: Gate, audit: Audit | None = None, count: Count = _ignore) -> None:
        self._gate = gate
        self._audit = audit
        self._count = count

    @asynccontextmanager
    async def enter(self, request: Request, action: Action) -> AsyncIterator[Visit]:
        """See `Access.enter`."""
        peer = request.client.host if request.client else ""
        who = self._gate.decide(action, http_caller(peer, request.headers.raw))
        if isinstance(who, Denied):
            self._deny(who, action)
            raise who.error()
        logged = self._audit if action not in UNLOGGED else None
        if logged is not None:
            self._require(logged, action)
        visit = Visit(who)
        try:
            yield visit
        except Exception as error:
            self._leave(logged, visit, action, _code_of(error))
            raise
        self._leave(logged, visit, action, None)

    def turned_away(self, denied: Denied) -> None:
        """See `Access.turned_away`."""
        self._deny(denied, Action.PAGE)

    def _require(self, audit: Audit, action: Action) -> None:
        try:
            audit.require()
        except HilumError as error:
            self._count(action, error.code)
            raise

    def _leave(
        self, audit: Audit | None, visit: Visit, action: Action, code: ErrorCode | None
    ) -> None:
        self._count(action, code)
        if audit is None:
            return
        digest = audit.request_digest(visit.request_id)
        audit.record(
            access_event(
                visit.principal, action, code or "ok", request=digest, bundle=visit.bundle_digest
            )
        )

    def _deny(self, denied: Denied, action: Action) -> None:
        self._count(action, denied.reason)
        if self._audit is not None:
            self._audit.record(access_event(denied, action))


def _code_of(error: Exception) -> ErrorCode:
    if isinstance(error, ClientDisconnect):
        return ErrorCode.DEADLINE_EXCEEDED  # Who hangs up has waited long enough.
    return error.code if isinstance(error, HilumError) else ErrorCode.INTERNAL
