"""A `DetectStream` call: a bounded number of images at a time, responses as they finish."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress

import grpc

from edge_agent.errors import InvalidRequest
from edge_agent.serving.error_boundary import as_hilum_error
from edge_agent.serving.grpc.call_tracker import ServicerContext
from edge_agent.serving.grpc.converters import MalformedMessage, ParsedRequest, to_error_message
from hilum.v1 import detection_pb2 as pb


class DetectionStream:
    """Reads requests, processes several at a time, and writes the responses one by one.

    A request counts against the concurrency until its response is written, and no request is read
    beyond it. HTTP/2's flow control then holds back a caller that sends faster than it reads.
    """

    def __init__(
        self,
        detect: Callable[[ParsedRequest | MalformedMessage], Awaitable[pb.DetectResponse]],
        context: ServicerContext,
        concurrency: int,
    ) -> None:
        """Build the stream.

        Args:
            detect: processes one request.
            context: the call.
            concurrency: requests that are processed at a time.
        """
        self._detect = detect
        self._context = context
        self._limit = asyncio.Semaphore(concurrency)
        self._ids_in_flight: set[str] = set()
        self._write_lock = asyncio.Lock()

    async def run(self, stopping: asyncio.Event) -> bool:
        """Serve until the caller has sent its last request or the agent stops.

        Returns:
            True if every request was read and answered; False if the agent stopped reading. All
            requests that were read are answered either way.
        """
        stop = asyncio.create_task(stopping.wait())
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._limit.acquire()
                    message = await self._read(stop)
                    if message is None:
                        return not stop.done()
                    group.create_task(self._serve(message))
        finally:
            stop.cancel()

    async def _read(self, stop: asyncio.Task[bool]) -> ParsedRequest | MalformedMessage | None:
        read = asyncio.ensure_future(self._context.read())
        try:
            await asyncio.wait({read, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not read.done():
                return None
            message = read.result()
            return message if isinstance(message, ParsedRequest | MalformedMessage) else None
        finally:
            read.cancel()

    async def _serve(self, message: ParsedRequest | MalformedMessage) -> None:
        try:
            response = await self._make_response(message)
            async with self._write_lock:
                # A caller that has disconnected gets no response; gRPC ends the call.
                with suppress(grpc.aio.BaseError):
                    await self._context.write(response)
        finally:
            self._limit.release()

    async def _make_response(
        self, message: ParsedRequest | MalformedMessage
    ) -> pb.DetectStreamResponse:
        request_id = message.request_id
        has_id = not isinstance(message, MalformedMessage)
        try:
            with self._claim_id(request_id) if has_id else nullcontext():
                response = await self._detect(message)
        except Exception as error:  # noqa: BLE001  # the boundary: every failure gets a code
            return pb.DetectStreamResponse(
                request_id=request_id, error=to_error_message(as_hilum_error(error))
            )
        return pb.DetectStreamResponse(request_id=request_id, response=response)

    @contextmanager
    def _claim_id(self, request_id: str) -> Iterator[None]:
        if not request_id:
            raise InvalidRequest(
                "A request on a stream has no request id.",
                hint="Give each request its own id: responses come in the order they finish.",
            )
        if request_id in self._ids_in_flight:
            raise InvalidRequest(
                "Another request with the same id is in flight on this stream.",
                hint="Use an id again only after its response has come.",
            )
        self._ids_in_flight.add(request_id)
        try:
            yield
        finally:
            self._ids_in_flight.discard(request_id)
