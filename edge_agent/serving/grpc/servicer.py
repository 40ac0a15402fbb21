"""The servicer of `hilum.v1.Detector`."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Final

from edge_agent.core.authorization import Action
from edge_agent.core.lifecycle import Lifecycle
from edge_agent.errors import HilumError
from edge_agent.serving.detection import DetectionService
from edge_agent.serving.error_boundary import as_hilum_error
from edge_agent.serving.grpc import converters
from edge_agent.serving.grpc.access import GrpcAccessControl
from edge_agent.serving.grpc.call_tracker import CallTracker, ServicerContext
from edge_agent.serving.grpc.errors import abort
from edge_agent.serving.grpc.streaming import DetectionStream
from hilum.v1 import detection_pb2 as pb

SERVICE: Final = "hilum.v1.Detector"


class DetectorServicer:
    """Implements `hilum.v1.Detector` with a detection service."""

    def __init__(
        self,
        get_service: Callable[[], DetectionService],
        access: GrpcAccessControl,
        lifecycle: Lifecycle,
        *,
        stream_concurrency: int,
    ) -> None:
        """Build the servicer.

        Args:
            get_service: returns the detection service to use now; raises NotReady if there is none.
            access: authorizes each request.
            lifecycle: the agent's; while it drains, new requests are refused.
            stream_concurrency: requests of one stream that are processed at a time.
        """
        self._get_service = get_service
        self._access = access
        self._lifecycle = lifecycle
        self._stream_concurrency = stream_concurrency
        self._calls = CallTracker()
        self._stopping = asyncio.Event()

    async def drain(self) -> None:
        """End idle streams, and return when all requests that were accepted are answered."""
        self._stopping.set()
        await self._calls.wait_idle()

    async def Detect(  # noqa: N802  # the contract's name
        self,
        request: converters.ParsedRequest | converters.MalformedMessage,
        context: ServicerContext,
    ) -> pb.DetectResponse:
        """Detect findings on one study image."""
        self._track(context)
        try:
            return await self._detect(request, context)
        except Exception as error:  # noqa: BLE001  # the boundary: every failure gets a code
            await abort(context, as_hilum_error(error))

    async def DetectStream(  # noqa: N802  # the contract's name
        self,
        _request_iterator: AsyncIterator[converters.ParsedRequest | converters.MalformedMessage],
        context: ServicerContext,
    ) -> None:
        """Detect findings on many study images; responses come in the order they finish."""
        self._track(context)
        try:
            self._access.check(context, Action.DETECT)
            self._lifecycle.require_open()
        except HilumError as error:
            await abort(context, error)
        stream = DetectionStream(
            lambda message: self._detect(message, context), context, self._stream_concurrency
        )
        is_complete = await stream.run(self._stopping)
        stopping = self._lifecycle.error()
        if not is_complete and stopping is not None:
            await abort(context, stopping)

    async def GetModel(  # noqa: N802  # the contract's name
        self,
        request: pb.GetModelRequest | converters.MalformedMessage,
        context: ServicerContext,
    ) -> pb.GetModelResponse:
        """Return the facts about the model in use and its engine."""
        try:
            with self._access.authorize(context, Action.MODEL):
                self._lifecycle.require_open()
                return self._describe_model(request)
        except Exception as error:  # noqa: BLE001  # the boundary: every failure gets a code
            await abort(context, as_hilum_error(error))

    def _describe_model(
        self, request: pb.GetModelRequest | converters.MalformedMessage
    ) -> pb.GetModelResponse:
        if isinstance(request, converters.MalformedMessage):
            raise converters.malformed_message_error()
        return converters.to_model_response(self._get_service().host.find(request.model).model)

    async def _detect(
        self,
        message: converters.ParsedRequest | converters.MalformedMessage,
        context: ServicerContext,
    ) -> pb.DetectResponse:
        request_id = message.request_id or uuid.uuid4().hex
        with self._access.authorize(context, Action.DETECT) as access:
            access.request_id = request_id
            self._lifecycle.require_open()
            remaining_s = context.time_remaining()
            now = asyncio.get_running_loop().time()
            request = converters.to_detection_request(
                message,
                request_id=request_id,
                deadline=None if remaining_s is None else now + remaining_s,
            )
            result = await self._get_service().detect(request)
            access.bundle_digest = result.bundle_digest
        return converters.to_detect_response(result)

    def _track(self, context: ServicerContext) -> None:
        """Count a call that is accepted; callers that try again must not prolong the drain."""
        if not self._lifecycle.is_draining:
            self._calls.track(context)
