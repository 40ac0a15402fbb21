"""What our servicers use of `grpc.aio.ServicerContext`, and how they know that calls are over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, Protocol

import grpc


class ServicerContext(Protocol):
    """One call, as its handler sees it (the stubs for grpcio are wrong about some of this)."""

    async def read(self) -> object:
        """The next request of a stream; `grpc.aio.EOF` after the caller's half-close."""
        ...

    async def write(self, message: Any) -> None:  # noqa: ANN401  # any message of the contract
        """Send one answer of a stream; returns when flow control has taken it."""
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
        """Seconds until the caller's deadline; None where the caller set none."""
        ...

    def peer(self) -> str:
        """The caller's address, such as `ipv4:127.0.0.1:5000`."""
        ...

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """What the caller sent beside the message."""
        ...

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """What TLS knows of the caller."""
        ...

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call back once the call is over and its status sent."""
        ...


class CallTracker:
    """The calls that are not over. One is over when its status is sent, not when its handler ends.

    A server that is stopped drops what it has not sent yet, so it is stopped when this is idle.
    """

    def __init__(self) -> None:
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def count(self, context: ServicerContext) -> None:
        """Count a call until it is over."""
        self._open += 1
        self._idle.clear()
        context.add_done_callback(self._over)

    async def idle(self) -> None:
        """Until no call is open."""
        await self._idle.wait()

    def _over(self, _context: object) -> None:
        self._open -= 1
        if not self._open:
            self._idle.set()
