"""One access, alike on both faces: who asks, whether they may, and the log's entry for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from edge_agent.core.audit_chain import AuditEvent, make_access_event
from edge_agent.core.authorization import Action, AuthResult, DenialReason, Denied, Principal
from edge_agent.errors import HilumError
from edge_agent.security.authentication import ClientCredentials
from hilum.codes import ErrorCode

Count = Callable[[Action, ErrorCode | DenialReason | None], None]

UNLOGGED: Final = frozenset({Action.HEALTH, Action.METRICS})
"""Probes come every few seconds and see nothing of anybody's; only their denials are logged."""


@dataclass(slots=True, eq=False)
class AccessRecord:
    """One access under way. The handler fills in what it learns, for the log."""

    principal: Principal
    request_id: str = ""
    bundle_digest: str = ""


class Gate(Protocol):
    """What knows the callers: `serving.access.Gatekeeper`."""

    def decide(self, action: Action, caller: ClientCredentials) -> AuthResult:
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


def ignore(_action: Action, _outcome: ErrorCode | DenialReason | None) -> None:
    """Nobody counts."""


class AccessController:
    """Lets callers in through one gate and logs how each access ended, however it ends.

    `count` is told of every access when it ends: what was asked for, and the error's code or the
    reason of the denial; None means that it was answered as asked. `hung_up` is what the transport
    raises where the caller has gone.
    """

    def __init__(
        self,
        gate: Gate,
        audit: Audit | None = None,
        count: Count = ignore,
        *,
        hung_up: type[Exception] | None = None,
    ) -> None:
        self._hung_up = hung_up or asyncio.CancelledError
        self._gate = gate
        self._audit = audit
        self._count = count
        self._open: dict[AccessRecord, Action] = {}

    @contextmanager
    def enter(self, caller: ClientCredentials, action: Action) -> Iterator[AccessRecord]:
        """Let a caller in for as long as the block runs.

        Raises:
            Unauthenticated, Forbidden: not this caller, or not this action.
            AuditUnavailable: the access cannot be logged.
        """
        visit = AccessRecord(self.admit(caller, action))
        audit = self._log_of(action)
        if audit is not None:
            self._require(audit, action)
        self._open[visit] = action
        try:
            yield visit
        except BaseException as error:
            self._leave(visit, self._code_of(error))
            raise
        self._leave(visit, None)

    def give_up(self) -> None:
        """Log every access that is still under way, before a process ends without waiting."""
        for visit in list(self._open):
            self._leave(visit, ErrorCode.NOT_READY)

    def admit(self, caller: ClientCredentials, action: Action) -> Principal:
        """Say who is calling, without an entry in the log unless they may not do this.

        Raises:
            Unauthenticated, Forbidden: not this caller, or not this action.
        """
        who = self._gate.decide(action, caller)
        if isinstance(who, Denied):
            self.deny(who, action)
            raise who.to_error()
        return who

    def deny(self, denied: Denied, action: Action) -> None:
        """Note an access that was denied."""
        self._count(action, denied.reason)
        if self._audit is not None:
            self._audit.record(make_access_event(denied, action))

    def _log_of(self, action: Action) -> Audit | None:
        return None if action in UNLOGGED else self._audit

    def _require(self, audit: Audit, action: Action) -> None:
        try:
            audit.require()
        except HilumError as error:
            self._count(action, error.code)
            raise

    def _leave(self, visit: AccessRecord, code: ErrorCode | None) -> None:
        action = self._open.pop(visit, None)
        if action is None:
            return  # It was given up.
        self._count(action, code)
        audit = self._log_of(action)
        if audit is None:
            return
        digest = audit.request_digest(visit.request_id)
        audit.record(
            make_access_event(
                visit.principal, action, code or "ok", request=digest, bundle=visit.bundle_digest
            )
        )

    def _code_of(self, error: BaseException) -> ErrorCode:
        if isinstance(error, asyncio.CancelledError | self._hung_up):
            return ErrorCode.DEADLINE_EXCEEDED  # Who hangs up has waited long enough.
        return error.code if isinstance(error, HilumError) else ErrorCode.INTERNAL
