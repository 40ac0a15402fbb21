"""Access control of gRPC calls."""

from __future__ import annotations

from contextlib import AbstractContextManager

from edge_agent.core.authorization import Action
from edge_agent.security.authentication import ClientCredentials, read_grpc_credentials
from edge_agent.serving.access_control import (
    AccessController,
    AccessRecord,
    AuditLog,
    Authenticator,
    CountAccess,
    count_nothing,
)
from edge_agent.serving.grpc.call_tracker import ServicerContext


class GrpcAccessControl:
    """Authorizes gRPC calls and logs how each of them ended."""

    def __init__(
        self,
        authenticator: Authenticator,
        audit: AuditLog | None = None,
        count: CountAccess = count_nothing,
    ) -> None:
        """Control a listener; see `AccessController`."""
        self._controller = AccessController(authenticator, audit, count)

    def authorize(
        self, context: ServicerContext, action: Action
    ) -> AbstractContextManager[AccessRecord]:
        """Authorize an access that lasts as long as the block, and log it at its end.

        Raises:
            Unauthenticated, Forbidden: not this caller, or not this action.
            AuditUnavailable: the access cannot be logged.
        """
        return self._controller.authorize(_credentials(context), action)

    def check(self, context: ServicerContext, action: Action) -> None:
        """Authorize a stream; each of its requests is then an access of its own.

        Raises:
            Unauthenticated, Forbidden: not this caller, or not this action.
        """
        self._controller.check(_credentials(context), action)

    def record_abandoned(self) -> None:
        """See `AccessController.record_abandoned`."""
        self._controller.record_abandoned()


def _credentials(context: ServicerContext) -> ClientCredentials:
    return read_grpc_credentials(
        context.peer(), context.invocation_metadata() or (), context.auth_context()
    )
