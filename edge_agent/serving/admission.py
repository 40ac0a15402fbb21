"""Admits requests by the rules of `core.admission`, with futures, a clock and a timer."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
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
from edge_agent.system.cancellation import wait_uncancellable

_REFUSALS: Final[dict[Refusal, tuple[type[TryLater], str]]] = {
    Refusal.QUEUE_FULL: (Overloaded, "The agent's queue of images is full."),
    Refusal.BYTES_FULL: (Overloaded, "The waiting images fill the memory set aside for them."),
    Refusal.DEADLINE_PASSED: (DeadlineExceeded, "The deadline had passed on arrival."),
    Refusal.CLOSED: (NotReady, "The agent is stopping."),
}


class AdmissionQueue:
    """A bounded queue of requests. Belongs to one event loop."""

    def __init__(
        self, policy: AdmissionPolicy, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._admission = Admission(policy)
        self._clock = clock
        self._waiters: dict[int, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def admit(
        self,
        priority: Priority,
        *,
        deadline: float | None = None,
        encoded_bytes: int = 0,
    ) -> AsyncIterator[Ticket]:
        """Wait for admission and hold it while the body runs.

        A request that is cancelled while it waits leaves the queue at once. A body that is
        cancelled must not leave work behind, because the next request is admitted then.

        Args:
            priority: `stat` or `routine`.
            deadline: of the event loop's clock, which is `time.monotonic`, in seconds;
                the body is never entered after it.
            encoded_bytes: memory that the request already holds.

        Raises:
            Overloaded: the queue or its memory is full; `retry_after_s` says when to try again.
            DeadlineExceeded: the deadline passed before the request was admitted.
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
            self.advance()

    def advance(self) -> None:
        """Expire requests whose deadline has passed and start those that are due.

        Runs on a timer and whenever a request comes or goes.
        """
        now = self._clock()
        step = self._admission.step(now)
        for ticket in step.expired:
            self._settle(ticket, DeadlineExceeded("The deadline passed while the image waited."))
        for ticket in step.started:
            self._settle(ticket, None)
        self._set_timer(now)

    def resize(self, *, max_running: int, max_waiting: int) -> None:
        """Change the number of requests that run and wait, and start those that now may."""
        self._admission.resize(max_running=max_running, max_waiting=max_waiting)
        if self._waiters:
            self.advance()

    def stats(self) -> AdmissionStats:
        """Return the queue's counts, for metrics."""
        return self._admission.stats()

    async def _enter(
        self, priority: Priority, deadline: float | None, encoded_bytes: int
    ) -> Ticket:
        self.advance()
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
        self.advance()
        await wait_uncancellable(waiter, partial(self._withdraw, ticket, waiter))
        return ticket

    def _withdraw(self, ticket: Ticket, waiter: asyncio.Future[None]) -> None:
        # The ticket may have started or expired in the same turn of the loop as the cancellation.
        if ticket.state in {State.QUEUED, State.RUNNING}:
            self._admission.cancel(ticket)
        self._waiters.pop(ticket.id, None)
        waiter.cancel()
        self.advance()

    def _settle(self, ticket: Ticket, error: Exception | None) -> None:
        waiter = self._waiters.pop(ticket.id)
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
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.advance)
