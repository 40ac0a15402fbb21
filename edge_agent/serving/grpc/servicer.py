"""The gRPC face: convert, call, convert."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Final

from edge_agent.core.authorization import Action
from edge_agent.errors import HilumError, NotReady
from edge_agent.serving.detection import DetectionService, check_model_name
from edge_agent.serving.error_boundary import coded
from edge_agent.serving.grpc import converters
from edge_agent.serving.grpc.call_tracker import CallTracker, ServicerContext
from edge_agent.serving.grpc.errors import abort
from edge_agent.serving.grpc.interceptor import GrpcAccess
from edge_agent.serving.grpc.streaming import DetectionStream
from hilum.v1 import detection_pb2 as pb

SERVICE: Final = "hilum.v1.Detector"


class Detector:
    """`hilum.v1.Detector` over a pipeline.

    `pipeline` gives the pipeline to use now and raises NotReady while there is none.
    """

    def __init__(
        self,
        pipeline: Callable[[], DetectionService],
        access: GrpcAccess,
        *,
        stream_concurrency: int,
    ) -> None:
        self._pipeline = pipeline
        self._access = access
        self._stream_concurrency = stream_concurrency
        self._calls = CallTracker()
        self._stopping = asyncio.Event()

    async def drain(self) -> None:
        """Take on nothing more, end streams once idle, and return when all answers are sent."""
        self._stopping.set()
        await self._calls.idle()

    async def Detect(  # noqa: N802  # the contract's name
        self,
        request: converters.ParsedRequest | converters.MalformedMessage,
        context: ServicerContext,
    ) -> pb.DetectResponse:
        """One study image in, its findings out."""
        self._calls.count(context)
        try:
            return await self._answer(request, context)
        except Exception as error:  # noqa: BLE001  # the boundary: every failure gets a code
            await abort(context, coded(error))

    async def DetectStream(  # noqa: N802  # the contract's name
        self,
        _request_iterator: AsyncIterator[converters.ParsedRequest | converters.MalformedMessage],
        context: ServicerContext,
    ) -> None:
        """Many study images over one call; answers in the order they finish."""
        self._calls.count(context)
        try:
            self._access.admit(context, Action.DETECT)
        except HilumError as error:
            await abort(context, error)
        stream = DetectionStream(
            lambda message: self._answer(message, context), context, self._stream_concurrency
        )
        if not await stream.run(self._stopping):
            await abort(context, _stopping_error())

    async def GetModel(  # noqa: N802  # the contract's name
        self,
        request: pb.GetModelRequest | converters.MalformedMessage,
        context: ServicerContext,
    ) -> pb.GetModelResponse:
        """Which model answers, and on which engine."""
        try:
            with self._access.enter(context, Action.MODEL):
                return self._describe_model(request)
        except Exception as error:  # noqa: BLE001  # the boundary: every failure gets a code
            await abort(context, coded(error))

    def _describe_model(
        self, request: pb.GetModelRequest | converters.MalformedMessage
    ) -> pb.GetModelResponse:
        if isinstance(request, converters.MalformedMessage):
            raise converters.unreadable()
        model = self._pipeline().model
        check_model_name(request.model, model.manifest.name)
        return converters.model_response(model)

    async def _answer(
        self,
        message: converters.ParsedRequest | converters.MalformedMessage,
        context: ServicerContext,
    ) -> pb.DetectResponse:
        request_id = message.request_id or uuid.uuid4().hex
        with self._access.enter(context, Action.DETECT) as visit:
            visit.request_id = request_id
            if self._stopping.is_set():
                raise _stopping_error()
            remaining = context.time_remaining()
            now = asyncio.get_running_loop().time()
            request = converters.study_request(
                message,
                request_id=request_id,
                deadline=None if remaining is None else now + remaining,
            )
            answer = await self._pipeline().detect(request)
            visit.bundle_digest = answer.bundle_digest
        return converters.detect_response(answer)


def _stopping_error() -> NotReady:
    return NotReady("The agent is stopping.", hint="Send the request to another agent, or later.")
