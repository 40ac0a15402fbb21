"""What our servicers use of `grpc.aio.ServicerContext`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import grpc


class Context(Protocol):
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
        trailing_metadata: tuple[tuple[str, bytes], ...] = (),
    ) -> NoReturn:
        """End the call with an error; always raises."""
        ...

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None where the caller set none."""
        ...

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call back once the call is over and its status sent."""
        ...
