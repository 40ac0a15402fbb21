"""The interceptor that authorizes calls of every gRPC service but the detector.

The detector's methods authorize themselves, because each request of a stream is an access.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc

from edge_agent.core.authorization import Action
from edge_agent.errors import HilumError
from edge_agent.serving.grpc.access import GrpcAccessControl
from edge_agent.serving.grpc.call_tracker import ServicerContext
from edge_agent.serving.grpc.converters import (
    MalformedMessage,
    make_deserializer,
    malformed_message_error,
)
from edge_agent.serving.grpc.errors import abort

ACTIONS: Final = {
    "hilum.v1.Detector": Action.DETECT,
    "grpc.health.v1.Health": Action.HEALTH,
    "grpc.reflection.v1alpha.ServerReflection": Action.MODEL,
}
"""The action that a call of each service is; of any other service, `ADMINISTER`."""

_Behaviour = Callable[[Any, ServicerContext], Any]


class AuthInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stubs only
    """Authorizes calls, and gives handlers `MalformedMessage` for bytes that are not protobuf."""

    def __init__(self, access: GrpcAccessControl) -> None:
        self._access = access

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401  # gRPC's handlers have no common type
        """Return the method's handler with access control; None if there is no such method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        service = handler_call_details.method.split("/")[1]
        action = ACTIONS.get(service, Action.ADMINISTER)
        kind, behaviour = _kind_and_behaviour(handler)
        deserialize = handler.request_deserializer
        if action is Action.DETECT:
            deserialize = make_deserializer(deserialize)
        else:
            behaviour = self._guard(behaviour, action)
            # The other services read their streams themselves and know no `MalformedMessage`.
            if not handler.request_streaming:
                deserialize = make_deserializer(deserialize)
        make_handler = getattr(grpc, f"{kind}_rpc_method_handler")
        return make_handler(behaviour, deserialize, handler.response_serializer)

    def _guard(self, behaviour: _Behaviour, action: Action) -> _Behaviour:
        """Return the behaviour with an access check before it."""
        # gRPC inspects the function to find out whether it yields its responses.
        if inspect.isasyncgenfunction(behaviour):
            return self._guard_generator(behaviour, action)

        async def call(request: Any, context: ServicerContext) -> Any:  # noqa: ANN401
            await self._check(request, context, action)
            return await behaviour(request, context)

        return call

    def _guard_generator(self, behaviour: _Behaviour, action: Action) -> _Behaviour:
        async def generate(request: Any, context: ServicerContext) -> AsyncIterator[Any]:  # noqa: ANN401
            await self._check(request, context, action)
            async for response in behaviour(request, context):
                yield response

        return generate

    async def _check(self, request: object, context: ServicerContext, action: Action) -> None:
        try:
            with self._access.authorize(context, action):
                if isinstance(request, MalformedMessage):
                    raise malformed_message_error()
        except HilumError as error:
            await abort(context, error)


def _kind_and_behaviour(handler: Any) -> tuple[str, _Behaviour]:  # noqa: ANN401
    """Return the name of a handler's kind, such as `unary_stream`, and its function."""
    request = "stream" if handler.request_streaming else "unary"
    response = "stream" if handler.response_streaming else "unary"
    kind = f"{request}_{response}"
    return kind, getattr(handler, kind)
