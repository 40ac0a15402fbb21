"""The part of `grpc.aio.ServicerContext` that the servicers use, and a count of open calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, Protocol

import grpc


class ServicerContext(Protocol):
    """A call, for its handler. Some of these types are wrong in the published stubs of grpcio."""

    async def read(self) -> object:
        """Return the next request of a stream; `grpc.aio.EOF` after the caller's half-close."""
        ...

    async def write(self, message: Any) -> None:  # noqa: ANN401  # any message of the contract
        """Send one response of a stream; returns when flow control has accepted it."""
        ...

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: tuple[tuple[str, str | bytes], ...] = (),
    ) -> NoReturn:
        """End the call with an error; always raises."""
        ...

    def time_remaining(self) -> float | None:
        """Return the seconds until the caller's deadline; None if the caller set none."""
        ...

    def peer(self) -> str:
        """Return the caller's address, such as `ipv4:127.0.0.1:5000`."""
        ...

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """Return the metadata that the caller sent."""
        ...

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Return the properties of the TLS connection."""
        ...

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` when the call has ended and its status is sent."""
        ...


class CallTracker:
    """Counts open calls. A call ends when its status is sent, not when its handler returns.

    A server that is stopped drops what it has not sent yet. It is stopped when no call is open.
    """

    def __init__(self) -> None:
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def track(self, context: ServicerContext) -> None:
        """Count a call until it ends."""
        self._open += 1
        self._idle.clear()
        context.add_done_callback(self._end)

    async def wait_idle(self) -> None:
        """Wait until no call is open."""
        await self._idle.wait()

    def _end(self, _context: object) -> None:
        self._open -= 1
        if not self._open:
            self._idle.set()
