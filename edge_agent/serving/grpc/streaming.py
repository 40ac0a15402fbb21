"""One `DetectStream` call: a bounded number of images at a time, answers as they finish."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress

import grpc

from edge_agent.errors import InvalidRequest
from edge_agent.serving.error_boundary import coded
from edge_agent.serving.grpc.call_tracker import ServicerContext
from edge_agent.serving.grpc.converters import MalformedMessage, ParsedRequest, error_message
from hilum.v1 import detection_pb2 as pb


class DetectionStream:
    """Reads requests, has them answered side by side, writes the answers one by one.

    A request takes room until its answer is written, and nothing is read without room: a caller
    that sends faster than it reads is held back by HTTP/2's own flow control.
    """

    def __init__(
        self,
        answer: Callable[[ParsedRequest | MalformedMessage], Awaitable[pb.DetectResponse]],
        context: ServicerContext,
        concurrency: int,
    ) -> None:
        self._answer = answer
        self._context = context
        self._room = asyncio.Semaphore(concurrency)
        self._in_flight: set[str] = set()
        self._writing = asyncio.Lock()

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
                    await self._room.acquire()
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
            outcome = await self._outcome(message)
            async with self._writing:
                # Who has hung up gets no more answers; gRPC ends the call by itself.
                with suppress(grpc.aio.BaseError):
                    await self._context.write(outcome)
        finally:
            self._room.release()

    async def _outcome(self, message: ParsedRequest | MalformedMessage) -> pb.DetectStreamResponse:
        request_id = message.request_id
        nameless = isinstance(message, MalformedMessage)
        try:
            with nullcontext() if nameless else self._claimed(request_id):
                response = await self._answer(message)
        except Exception as error:  # noqa: BLE001  # the boundary: every failure gets a code
            return pb.DetectStreamResponse(request_id=request_id, error=error_message(coded(error)))
        return pb.DetectStreamResponse(request_id=request_id, response=response)

    @contextmanager
    def _claimed(self, request_id: str) -> Iterator[None]:
        if not request_id:
            raise InvalidRequest(
                "A request on a stream has no request id.",
                hint="Give each request an id of its own: answers come in the order they finish.",
            )
        if request_id in self._in_flight:
            raise InvalidRequest(
                "Another request with the same id is in flight on this stream.",
                hint="Use an id again only after its answer has come.",
            )
        self._in_flight.add(request_id)
        try:
            yield
        finally:
            self._in_flight.discard(request_id)
