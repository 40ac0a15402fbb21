"""The retry rules, which both clients use.

gRPC's own retries (service config) are switched off. They do not apply to requests above their
256 kB buffer, which every radiograph exceeds; they cannot distinguish a full queue from a file over
the size limit, because both are RESOURCE_EXHAUSTED; and two nested retry loops multiply attempts.

Requests are idempotent, so a request may be sent again:

- after `overloaded`: until the caller's deadline, with rising waits or the wait that the agent asks
  for;
- after `unreachable` or `not_ready`: `attempts` times in all, so that a wrong address is reported
  soon;
- after any other error never. A refusal stays a refusal; an agent that failed on an image
  (`internal`, `engine_failed`, `decoder_failed`) may fail because of that image, and a retry would
  only hide it.

If a wait would exceed the caller's deadline, the error is raised at once.
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
    """Monotonic time and waiting; tests replace it."""

    def now(self) -> float:
        """Return the seconds since an arbitrary start."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Block this thread."""
        time.sleep(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """Wait while other tasks run."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Retry:
    """The number of attempts and the waits between them.

    The n-th wait is between half of and the whole of `first_wait_s` * 2^(n-1), at most
    `longest_wait_s`. The random part prevents clients that were refused together from all trying
    again at the same time. With `attempts=1` an agent that cannot be reached or is not ready is not
    tried again.
    """

    attempts: int = 5
    first_wait_s: float = 0.1
    longest_wait_s: float = 2.0
    # Returns a number from 0 to 1; not for secrets.
    random: Callable[[], float] = field(default=random.random, repr=False)

    def compute_wait_s(self, error: DetectError, attempt: int, remaining_s: float) -> float | None:
        """Return the seconds to wait after the failed `attempt` (1 for the first).

        None means that the error is final.
        """
        is_limited = error.code in _LIMITED
        if not is_limited and error.code != ErrorCode.OVERLOADED:
            return None
        if is_limited and attempt >= self.attempts:
            return None
        wait_s = self.compute_pause_s(attempt)
        if error.retry_after_s is not None:
            # Never earlier than the agent asks for, and not all clients at the same instant.
            wait_s += error.retry_after_s
        return wait_s if wait_s < remaining_s else None

    def compute_pause_s(self, attempt: int) -> float:
        """Return the seconds to wait after the failed `attempt` (1 for the first)."""
        # The exponent is bounded, so that no number overflows after many attempts.
        longest_s = min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(attempt - 1, 30))
        return longest_s * (0.5 + 0.5 * self.random())
