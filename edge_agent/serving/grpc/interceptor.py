"""The gate in front of each gRPC method."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, Final

import grpc

from edge_agent.core.authorization import Action
from edge_agent.errors import HilumError
from edge_agent.security.authentication import ClientCredentials, read_grpc_credentials
from edge_agent.serving.access_records import (
    AccessController,
    AccessRecord,
    Audit,
    Count,
    Gate,
    ignore,
)
from edge_agent.serving.grpc.call_tracker import ServicerContext
from edge_agent.serving.grpc.converters import MalformedMessage, received, unreadable
from edge_agent.serving.grpc.errors import abort

ACTIONS: Final = {
    "hilum.v1.Detector": Action.DETECT,
    "grpc.health.v1.Health": Action.HEALTH,
    "grpc.reflection.v1alpha.ServerReflection": Action.MODEL,
}
"""What a service's methods are; of any other service, `ADMINISTER`."""


class GrpcAccess:
    """Who may do what, with a gatekeeper and, where one is kept, the audit log."""

    def __init__(self, gate: Gate, audit: Audit | None = None, count: Count = ignore) -> None:
        self._visits = AccessController(gate, audit, count)

    def enter(
        self, context: ServicerContext, action: Action
    ) -> AbstractContextManager[AccessRecord]:
        """Let a caller in for as long as the block runs; its end is logged, however it ends.

        Raises:
            Unauthenticated, Forbidden: not this caller, or not this action.
            AuditUnavailable: the access cannot be logged.
        """
        return self._visits.enter(_caller(context), action)

    def admit(self, context: ServicerContext, action: Action) -> None:
        """Turn away who may not do this; what is then done is entered one by one.

        Raises:
            Unauthenticated, Forbidden: not this caller, or not this action.
        """
        self._visits.admit(_caller(context), action)

    def give_up(self) -> None:
        """Log what is still under way, before the process ends without waiting for it."""
        self._visits.give_up()


class AuthInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stubs only
    """Stands before every service but the detector, whose methods log what they did themselves.

    To these, too, messages come as `wire.received` gives them.
    """

    def __init__(self, access: GrpcAccess) -> None:
        self._access = access

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401  # gRPC's handlers have no common type
        """Wrap the method's handler, if there is one."""
        handler = await continuation(handler_call_details)
        service = handler_call_details.method.split("/")[1]
        action = ACTIONS.get(service, Action.ADMINISTER)
        if handler is None:
            return None
        ours = action is Action.DETECT
        for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            behaviour = getattr(handler, kind)
            if behaviour is not None:
                make = getattr(grpc, f"{kind}_rpc_method_handler")
                parse = handler.request_deserializer
                return make(
                    behaviour if ours else self._guarded(behaviour, action),
                    # A foreign service reads its stream itself and knows no `MalformedMessage`.
                    received(parse) if ours or kind.startswith("unary") else parse,
                    handler.response_serializer,
                )
        return None

    def _guarded(self, behaviour: Callable[[Any, ServicerContext], Any], action: Action) -> Any:  # noqa: ANN401
        async def check(request: Any, context: ServicerContext) -> None:  # noqa: ANN401
            try:
                with self._access.enter(context, action):
                    if isinstance(request, MalformedMessage):
                        raise unreadable()
            except HilumError as error:
                await abort(context, error)

        async def call(request: Any, context: ServicerContext) -> Any:  # noqa: ANN401
            await check(request, context)
            return await behaviour(request, context)

        async def generate(request: Any, context: ServicerContext) -> AsyncIterator[Any]:  # noqa: ANN401
            await check(request, context)
            async for answer in behaviour(request, context):
                yield answer

        # gRPC looks at the function itself to tell whether it yields its answers.
        return generate if inspect.isasyncgenfunction(behaviour) else call


def _caller(context: ServicerContext) -> ClientCredentials:
    return read_grpc_credentials(
        context.peer(), context.invocation_metadata() or (), context.auth_context()
    )
