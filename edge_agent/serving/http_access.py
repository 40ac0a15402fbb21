"""The gate in front of each HTTP address: who asks, whether they may, and the log entry for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from starlette.requests import Request

from edge_agent.core.access import Action, Denied, Identity, Principal
from edge_agent.core.audit import AuditEvent, access_event
from edge_agent.errors import HilumError
from edge_agent.serving.access import Caller, http_caller
from hilum.codes import ErrorCode

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


class GuardedAccess:
    """Implements `Access` with a gatekeeper and, where one is kept, the audit log."""

    def __init__(self, gate: Gate, audit: Audit | None = None) -> None:
        self._gate = gate
        self._audit = audit

    @asynccontextmanager
    async def enter(self, request: Request, action: Action) -> AsyncIterator[Visit]:
        """See `Access.enter`."""
        peer = request.client.host if request.client else ""
        who = self._gate.decide(action, http_caller(peer, request.headers.raw))
        if isinstance(who, Denied):
            self._record(access_event(who, action))
            raise who.error()
        logged = self._audit if action not in UNLOGGED else None
        if logged is not None:
            logged.require()
        visit = Visit(who)
        try:
            yield visit
        except Exception as error:
            code = error.code if isinstance(error, HilumError) else ErrorCode.INTERNAL
            self._leave(logged, visit, action, code)
            raise
        self._leave(logged, visit, action, None)

    def turned_away(self, denied: Denied) -> None:
        """See `Access.turned_away`."""
        self._record(access_event(denied, Action.PAGE))

    def _leave(
        self, audit: Audit | None, visit: Visit, action: Action, code: ErrorCode | None
    ) -> None:
        if audit is None:
            return
        digest = audit.request_digest(visit.request_id)
        audit.record(
            access_event(
                visit.principal, action, code or "ok", request=digest, bundle=visit.bundle_digest
            )
        )

    def _record(self, event: AuditEvent) -> None:
        if self._audit is not None:
            self._audit.record(event)
