"""Controls and records each access, the same for both transports.

An access is one call of one action. It is authorized before it runs, and the audit log gets one
entry when it ends, with any outcome.
"""

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

CountAccess = Callable[[Action, ErrorCode | DenialReason | None], None]
"""Called once when an access ends, with its error's code or the reason of its denial, or None."""

UNLOGGED: Final = frozenset({Action.HEALTH, Action.METRICS})
"""Probes come every few seconds and reveal nothing of a patient; only their denials are logged."""


@dataclass(slots=True, eq=False)
class AccessRecord:
    """An access that is running. The handler sets the fields for the audit log."""

    principal: Principal
    request_id: str = ""
    bundle_digest: str = ""


class Authenticator(Protocol):
    """Authenticates callers; implemented by `security.authentication.Authenticator`."""

    def decide(self, action: Action, caller: ClientCredentials) -> AuthResult:
        """Return the caller's principal if it may do this, or else the denial."""
        ...


class AuditLog(Protocol):
    """Logs accesses; implemented by `audit.log.AuditLog`."""

    def require(self) -> None:
        """Raise AuditUnavailable if an access cannot be logged."""
        ...

    def record(self, event: AuditEvent) -> None:
        """Queue an entry."""
        ...

    def request_digest(self, request_id: str) -> str:
        """Return the digest that the log holds in place of a request's id."""
        ...


def count_nothing(_action: Action, _outcome: ErrorCode | DenialReason | None) -> None:
    """Count no accesses."""


class AccessController:
    """Authorizes the accesses of one listener and logs how each of them ended."""

    def __init__(
        self,
        authenticator: Authenticator,
        audit: AuditLog | None = None,
        count: CountAccess = count_nothing,
        *,
        disconnect_error: type[Exception] | None = None,
    ) -> None:
        """Control a listener.

        Args:
            authenticator: decides who the caller is and whether it may do this.
            audit: the audit log, if one is kept.
            count: counts accesses for metrics.
            disconnect_error: raised by the transport when the caller has disconnected, if it does
                not cancel the handler.
        """
        self._authenticator = authenticator
        self._audit = audit
        self._count = count
        self._disconnect_errors = (asyncio.CancelledError, disconnect_error or ())
        self._running: dict[AccessRecord, Action] = {}

    @contextmanager
    def authorize(self, caller: ClientCredentials, action: Action) -> Iterator[AccessRecord]:
        """Authorize an access that lasts as long as the block, and log it at its end.

        Raises:
            Unauthenticated, Forbidden: not this caller, or not this action.
            AuditUnavailable: the access cannot be logged.
        """
        access = AccessRecord(self.check(caller, action))
        audit = self._audit_log(action)
        if audit is not None:
            self._require(audit, action)
        self._running[access] = action
        try:
            yield access
        except BaseException as error:
            self._end(access, self._code_of(error))
            raise
        self._end(access, None)

    def check(self, caller: ClientCredentials, action: Action) -> Principal:
        """Authorize a caller without a log entry, unless the access is denied.

        Raises:
            Unauthenticated, Forbidden: not this caller, or not this action.
        """
        principal = self._authenticator.decide(action, caller)
        if isinstance(principal, Denied):
            self.record_denial(principal, action)
            raise principal.to_error()
        return principal

    def record_denial(self, denied: Denied, action: Action) -> None:
        """Count and log an access that was denied."""
        self._count(action, denied.reason)
        if self._audit is not None:
            self._audit.record(make_access_event(denied, action))

    def record_abandoned(self) -> None:
        """Log every running access as `not_ready`, before the process exits without waiting."""
        for access in list(self._running):
            self._end(access, ErrorCode.NOT_READY)

    def _audit_log(self, action: Action) -> AuditLog | None:
        return None if action in UNLOGGED else self._audit

    def _require(self, audit: AuditLog, action: Action) -> None:
        try:
            audit.require()
        except HilumError as error:
            self._count(action, error.code)
            raise

    def _end(self, access: AccessRecord, code: ErrorCode | None) -> None:
        action = self._running.pop(access, None)
        if action is None:
            return  # It was recorded as abandoned.
        self._count(action, code)
        audit = self._audit_log(action)
        if audit is None:
            return
        audit.record(
            make_access_event(
                access.principal,
                action,
                code or "ok",
                request=audit.request_digest(access.request_id),
                bundle=access.bundle_digest,
            )
        )

    def _code_of(self, error: BaseException) -> ErrorCode:
        if isinstance(error, self._disconnect_errors):
            return ErrorCode.DEADLINE_EXCEEDED  # A caller that disconnects waits no longer.
        return error.code if isinstance(error, HilumError) else ErrorCode.INTERNAL
