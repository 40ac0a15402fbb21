"""The gRPC face: convert, call, convert."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Final

from edge_agent.errors import NotReady
from edge_agent.serving import wire
from edge_agent.serving.failures import coded
from edge_agent.serving.grpc_context import Calls, Context
from edge_agent.serving.grpc_errors import abort
from edge_agent.serving.grpc_stream import DetectionStream
from edge_agent.serving.pipeline import Pipeline
from hilum.v1 import detection_pb2 as pb

SERVICE: Final = "hilum.v1.Detector"


class Detector:
    """`hilum.v1.Detector` over a pipeline.

    `pipeline` gives the pipeline to use now and raises NotReady while there is none.
    """

    def __init__(self, pipeline: Callable[[], Pipeline], *, stream_concurrency: int) -> None:
        self._pipeline = pipeline
        self._stream_concurrency = stream_concurrency
        self._calls = Calls()
        self._stopping = asyncio.Event()

    async def drain(self) -> None:
        """Take on nothing more, end streams once idle, and return when all answers are sent."""
        self._stopping.set()
        await self._calls.idle()

    async def Detect(  # noqa: N802  # the contract's name
        self,
        request: pb.DetectRequest,
        context: Context,
    ) -> pb.DetectResponse:
        """One study image in, its findings out."""
        self._calls.count(context)
        try:
            return await self._answer(request, context)
        except Exception as error:  # noqa: BLE001  # the boundary: every failure gets a code
            await abort(context, coded(error))

    async def DetectStream(  # noqa: N802  # the contract's name
        self,
        _request_iterator: AsyncIterator[pb.DetectRequest],
        context: Context,
    ) -> None:
        """Many study images over one call; answers in the order they finish."""
        self._calls.count(context)
        stream = DetectionStream(
            lambda message: self._answer(message, context), context, self._stream_concurrency
        )
        if not await stream.run(self._stopping):
            await abort(context, _stopping_error())

    async def GetModel(  # noqa: N802  # the contract's name
        self,
        _request: pb.GetModelRequest,
        context: Context,
    ) -> pb.GetModelResponse:
        """Which model answers, and on which engine."""
        try:
            return wire.model_response(self._pipeline().model)
        except Exception as error:  # noqa: BLE001  # the boundary: every failure gets a code
            await abort(context, coded(error))

    async def _answer(self, message: pb.DetectRequest, context: Context) -> pb.DetectResponse:
        if self._stopping.is_set():
            raise _stopping_error()
        remaining = context.time_remaining()
        request = wire.study_request(
            message,
            request_id=message.request_id or uuid.uuid4().hex,
            deadline=None if remaining is None else asyncio.get_running_loop().time() + remaining,
        )
        return wire.detect_response(await self._pipeline().detect(request))


def _stopping_error() -> NotReady:
    return NotReady("The agent is stopping.", hint="Send the request to another agent, or later.")
