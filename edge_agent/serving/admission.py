"""The gate that requests pass: `core.admission` with futures, a clock and a timer around it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from edge_agent.core.admission import (
    Admission,
    AdmissionPolicy,
    AdmissionStats,
    Priority,
    Refusal,
    State,
    Ticket,
)
from edge_agent.errors import DeadlineExceeded, NotReady, Overloaded, TryLater

_REFUSALS: Final[dict[Refusal, tuple[type[TryLater], str]]] = {
    Refusal.QUEUE_FULL: (Overloaded, "The agent has as many images to look at as it can hold."),
    Refusal.BYTES_FULL: (Overloaded, "The images that wait fill the memory set aside for them."),
    Refusal.DEADLINE_PASSED: (DeadlineExceeded, "The deadline had passed on arrival."),
    Refusal.CLOSED: (NotReady, "The agent is stopping."),
}


class AdmissionQueue:
    """Lets requests in by the rules of `core.admission`. Belongs to one event loop."""

    def __init__(
        self, policy: AdmissionPolicy, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._admission = Admission(policy)
        self._clock = clock
        self._waiters: dict[int, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def admit(
        self,
        priority: Priority,
        *,
        deadline: float | None = None,
        encoded_bytes: int = 0,
    ) -> AsyncIterator[Ticket]:
        """Wait for a slot and hold it for the body; leaving the body, however, frees it.

        Cancelled while waiting, the place is free at once. A body that is cancelled must not leave
        work behind: its slot is given to the next.

        Args:
            priority: `stat` or `routine`.
            deadline: on the gate's clock (monotonic seconds); the body is never entered after it.
            encoded_bytes: memory the request holds already.

        Raises:
            Overloaded: no place, or no memory, for one more; `retry_after_s` says when to return.
            DeadlineExceeded: the deadline passed before a slot was free.
            NotReady: the gate is closed.
        """
        ticket = await self._enter(priority, deadline, encoded_bytes)
        try:
            yield ticket
        except asyncio.CancelledError:
            self._admission.cancel(ticket)
            raise
        finally:
            if ticket.state is State.RUNNING:
                self._admission.finish(ticket, self._clock())
            self.look()

    def look(self) -> None:
        """Look at the clock: expire the late, start the due. The gate does so by itself in time."""
        now = self._clock()
        step = self._admission.step(now)
        for ticket in step.expired:
            self._settle(ticket, DeadlineExceeded("The deadline passed while the image waited."))
        for ticket in step.started:
            self._settle(ticket, None)
        self._set_timer(now)
        if self._admission.is_idle:
            self._idle.set()
        else:
            self._idle.clear()

    def close(self) -> None:
        """Refuse all further requests; those admitted go on."""
        self._admission.close()

    async def drained(self) -> None:
        """Wait until nothing waits and nothing runs."""
        await self._idle.wait()

    def stats(self) -> AdmissionStats:
        """For metrics."""
        return self._admission.stats()

    async def _enter(
        self, priority: Priority, deadline: float | None, encoded_bytes: int
    ) -> Ticket:
        self.look()
        ticket = self._admission.offer(
            self._clock(),
            priority,
            deadline=math.inf if deadline is None else deadline,
            encoded_bytes=encoded_bytes,
        )
        if ticket.refusal is not None:
            kind, message = _REFUSALS[ticket.refusal]
            error = kind(message)
            if kind is Overloaded:
                error.retry_after_s = ticket.retry_after_s
            raise error
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[ticket.id] = waiter
        self.look()
        try:
            await waiter
        except asyncio.CancelledError:
            # A start or an expiry may have come in the same turn of the loop as the cancellation.
            if ticket.state in {State.QUEUED, State.RUNNING}:
                self._admission.cancel(ticket)
            self._waiters.pop(ticket.id, None)
            if not waiter.cancelled():
                waiter.exception()  # Nobody is left to take it; retrieved, lest it count as lost.
            self.look()
            raise
        return ticket

    def _settle(self, ticket: Ticket, error: Exception | None) -> None:
        waiter = self._waiters.pop(ticket.id)
        if waiter.done():  # Cancelled; its owner has not run yet and will tell the core.
            return
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._admission.next_deadline()
        if deadline is not None and deadline < math.inf:
            delay_s = max(0.0, deadline - now)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.look)
