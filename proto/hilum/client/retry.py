"""When to try again: decided here, once, for both clients.

gRPC can retry by itself (service config). It is switched off: it gives up on requests above its
256 kB buffer, which every radiograph is; it cannot tell a full queue from a file over the size
limit, as both are RESOURCE_EXHAUSTED; and two retry loops, one inside the other, multiply.

Asking twice for the same image changes nothing at the agent, so a request may be sent again:

- overloaded: until the caller's time is up, waiting longer each time, or as long as the agent asks;
- unreachable, or not ready: `attempts` times in all, so that a wrong address is told soon;
- anything else never. A refusal stays a refusal; an agent that failed on an image (internal,
  engine, decoder) may fail on that very image, and asking again would only hide it.

A wait that would outlast the caller's time is not begun: the error is raised at once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hilum.client.errors import DetectError
from hilum.codes import ClientErrorCode, ErrorCode

_LIMITED = frozenset({ClientErrorCode.UNREACHABLE, ErrorCode.NOT_READY})


class Clock:
    """Monotonic seconds, and waiting; tests bring their own."""

    def now(self) -> float:
        """Seconds from an arbitrary start."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Block this thread."""
        time.sleep(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """Let other tasks run meanwhile."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Retry:
    """The number of attempts and the waits between them.

    The n-th wait is between half of and the whole of `first_wait_s` * 2^(n-1), at most
    `longest_wait_s`: the random part keeps clients that were refused together from coming back
    together. `attempts=1` never asks twice for an agent that cannot be reached or is not ready.
    """

    attempts: int = 5
    first_wait_s: float = 0.1
    longest_wait_s: float = 2.0
    # 0-1; not for secrets.
    random: Callable[[], float] = field(default=random.random, repr=False)

    def wait_s(self, error: DetectError, attempt: int, remaining_s: float) -> float | None:
        """Seconds to wait after the failed `attempt` (1 for the first); None: give up."""
        limited = error.code in _LIMITED
        if not limited and error.code != ErrorCode.OVERLOADED:
            return None
        if limited and attempt >= self.attempts:
            return None
        wait = self.pause_s(attempt)
        if error.retry_after_s is not None:
            # Never earlier than asked for, and not all at the same instant.
            wait += error.retry_after_s
        return wait if wait < remaining_s else None

    def pause_s(self, attempt: int) -> float:
        """Seconds to wait after the failed `attempt` (1 for the first), whatever the error."""
        # The exponent is bounded so that no number overflows, however long it goes on.
        whole = min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(attempt - 1, 30))
        return whole * (0.5 + 0.5 * self.random())
