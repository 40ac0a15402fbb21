"""Admission control: a bounded queue with two priorities, as one state machine.

Pure: the caller passes `now` (monotonic seconds) and carries out the decisions. The rules:

1. At most `max_running` tickets run and at most `max_running + max_waiting` run or wait; one more
   is refused at once.
2. `stat` tickets start before `routine` ones, first come first served within a class. While both
   wait, at most `stat_burst` stat tickets start in a row, then one routine ticket does. A routine
   ticket that has waited `aged_s` starts after a single stat ticket. Two routine tickets never
   start in a row while a stat ticket waits. So with `n` tickets ahead in its own class, a routine
   ticket waits for at most `(n + 1) * (stat_burst + 1) - 1` starts, a stat ticket for at most
   `2 * n + 1`.
3. A ticket whose deadline has come is never started: it expires and frees its place.
4. The encoded bytes of all tickets, waiting or running, have a budget; a ticket beyond it is
   refused.
5. A request larger than the whole budget is admitted if it is the only one.

The memory of decoded images is bounded by the decoder (docs/decisions/0032-decoded-bytes.md).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import chain
from types import MappingProxyType
from typing import Final

DEFAULT_RETRY_AFTER_S: Final = 1.0
"""The advised delay before a retry while no service time has been measured."""
_SMOOTHING: Final = 0.1


class Priority(StrEnum):
    """The urgency of a request."""

    STAT = "stat"
    ROUTINE = "routine"


class State(StrEnum):
    """The state of a ticket."""

    OFFERED = "offered"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    REFUSED = "refused"


class Event(StrEnum):
    """An event in the life of a ticket."""

    ADMIT = "admit"
    REFUSE = "refuse"
    START = "start"
    EXPIRE = "expire"
    CANCEL = "cancel"
    FINISH = "finish"


TRANSITIONS: Final = MappingProxyType(
    {
        (State.OFFERED, Event.ADMIT): State.QUEUED,
        (State.OFFERED, Event.REFUSE): State.REFUSED,
        (State.QUEUED, Event.START): State.RUNNING,
        (State.QUEUED, Event.EXPIRE): State.EXPIRED,
        (State.QUEUED, Event.CANCEL): State.CANCELLED,
        (State.RUNNING, Event.FINISH): State.DONE,
        (State.RUNNING, Event.CANCEL): State.CANCELLED,
    }
)
"""All transitions. Any other pair of state and event raises IllegalEvent and changes nothing."""


class Refusal(StrEnum):
    """The reason for which an offer was refused."""

    QUEUE_FULL = "queue_full"
    BYTES_FULL = "bytes_full"
    DEADLINE_PASSED = "deadline_passed"
    CLOSED = "closed"


class IllegalEvent(Exception):
    """An event that the ticket's state does not allow. Nothing has changed."""

    def __init__(self, event: Event, state: State, ticket_id: int) -> None:
        super().__init__(f"{event} is not allowed for ticket {ticket_id}, which is {state}")


@dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """The bounds of admission.

    Attributes:
        max_running: tickets that run at once.
        max_waiting: tickets that wait, beyond those that run.
        stat_burst: stat tickets that start in a row while a routine ticket waits.
        aged_s: waiting time, in seconds, after which a routine ticket starts sooner.
        encoded_bytes: budget for the requests' bytes as received.
    """

    max_running: int = 2
    max_waiting: int = 64
    stat_burst: int = 4
    aged_s: float = 5.0
    encoded_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        if min(self.max_running, self.stat_burst, self.encoded_bytes) < 1:
            raise ValueError("max_running, stat_burst and the byte budget must be at least 1")
        if self.max_waiting < 0 or self.aged_s < 0:
            raise ValueError("max_waiting and aged_s must be at least 0")


@dataclass(slots=True)
class ByteBudget:
    """A budget of bytes. A request larger than all of it is admitted if it is the only one."""

    total_bytes: int
    used_bytes: int = 0

    def has_room(self, size_bytes: int) -> bool:
        """Return whether `reserve` would succeed now."""
        return self.used_bytes == 0 or self.used_bytes + size_bytes <= self.total_bytes

    def reserve(self, size_bytes: int) -> bool:
        """Reserve bytes if the budget has room.

        Returns:
            True if all of `size_bytes` are reserved, False if nothing is.

        Raises:
            ValueError: the number is negative.
        """
        if size_bytes < 0:
            raise ValueError("cannot reserve a negative number of bytes")
        if not self.has_room(size_bytes):
            return False
        self.used_bytes += size_bytes
        return True

    def release(self, size_bytes: int) -> None:
        """Return bytes that `reserve` has taken.

        Raises:
            ValueError: more than is reserved, or a negative number.
        """
        if not 0 <= size_bytes <= self.used_bytes:
            raise ValueError(f"cannot release {size_bytes} of {self.used_bytes} reserved bytes")
        self.used_bytes -= size_bytes


@dataclass(slots=True, eq=False)
class Ticket:
    """A request's place in the queue. Only `Admission` changes it."""

    id: int
    priority: Priority
    deadline: float
    encoded_bytes: int
    offered_at: float
    state: State = State.OFFERED
    refusal: Refusal | None = None
    retry_after_s: float | None = None
    started_at: float | None = None


@dataclass(frozen=True, slots=True)
class AdmissionDecision:
    """The tickets to run now, and those whose deadline has passed."""

    started: tuple[Ticket, ...] = ()
    expired: tuple[Ticket, ...] = ()


@dataclass(frozen=True, slots=True)
class AdmissionStats:
    """The current state and the totals since the start, for metrics."""

    queued: dict[Priority, int]
    running: int
    encoded_bytes: int
    mean_service_s: float | None
    reached: dict[tuple[State, Priority], int] = field(default_factory=dict)
    refusals: dict[Refusal, int] = field(default_factory=dict)


class Admission:
    """The state machine. Methods return at once; none is thread-safe."""

    def __init__(self, policy: AdmissionPolicy) -> None:
        self.policy = policy
        self.is_closed = False
        self._queues: dict[Priority, dict[int, Ticket]] = {p: {} for p in Priority}
        self._running: dict[int, Ticket] = {}
        self._encoded = ByteBudget(policy.encoded_bytes)
        self._last_id = 0
        self._stat_in_a_row = 0
        self._mean_service_s: float | None = None
        self._reached: Counter[tuple[State, Priority]] = Counter()
        self._refusals: Counter[Refusal] = Counter()

    # --- events -----------------------------------------------------------------------------

    def offer(
        self,
        now: float,
        priority: Priority,
        *,
        deadline: float,
        encoded_bytes: int = 0,
    ) -> Ticket:
        """Request a place.

        Call `step` before, so that expired tickets hold no place, and after.

        Args:
            now: monotonic seconds, like `deadline`.
            priority: `stat` or `routine`.
            deadline: the work is not started at or after this instant; `math.inf` for none.
            encoded_bytes: memory that the request occupies until it ends.

        Returns:
            The ticket, in state `QUEUED` or `REFUSED`.

        Raises:
            ValueError: the size is negative.
        """
        if encoded_bytes < 0:
            raise ValueError("sizes cannot be negative")
        self._last_id += 1
        ticket = Ticket(self._last_id, priority, deadline, encoded_bytes, now)
        refusal = self._find_refusal(now, ticket)
        if refusal is None:
            self._move(ticket, Event.ADMIT)
            self._encoded.reserve(encoded_bytes)
            self._queues[priority][ticket.id] = ticket
        else:
            self._move(ticket, Event.REFUSE)
            self._refusals[refusal] += 1
            ticket.refusal = refusal
            ticket.retry_after_s = self.estimate_retry_after_s()
        return ticket

    def step(self, now: float) -> AdmissionDecision:
        """Expire tickets whose deadline has passed, then start those that may start, in order.

        Returns:
            The tickets that have started or expired, for the caller to run or to answer.
        """
        expired = tuple(t for t in self._iter_waiting() if t.deadline <= now)
        for ticket in expired:
            self._move(ticket, Event.EXPIRE)
            self._remove(ticket)
        started = []
        while (ticket_due := self._find_next(now)) is not None:
            self._start(ticket_due, now)
            started.append(ticket_due)
        return AdmissionDecision(started=tuple(started), expired=expired)

    def finish(self, ticket: Ticket, now: float) -> None:
        """End a running ticket, after success or failure, and free its place."""
        self._move(ticket, Event.FINISH)
        self._remove(ticket)
        if ticket.started_at is not None:
            elapsed_s = max(0.0, now - ticket.started_at)
            mean = self._mean_service_s
            self._mean_service_s = (
                elapsed_s if mean is None else mean + _SMOOTHING * (elapsed_s - mean)
            )

    def cancel(self, ticket: Ticket) -> None:
        """End a ticket whose caller is gone, and free its place at once."""
        self._move(ticket, Event.CANCEL)
        self._remove(ticket)

    def resize(self, *, max_running: int, max_waiting: int) -> None:
        """Change the bounds on tickets. Admitted ones continue, also where there are now more."""
        self.policy = replace(self.policy, max_running=max_running, max_waiting=max_waiting)

    def close(self) -> None:
        """Refuse all further offers; admitted tickets continue."""
        self.is_closed = True

    # --- queries --------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Return the time by which `step` must be called; None while no ticket waits."""
        return min((t.deadline for t in self._iter_waiting()), default=None)

    def estimate_retry_after_s(self) -> float:
        """Return an estimate, from recent service times, of the present queue's duration."""
        if self._mean_service_s is None:
            return DEFAULT_RETRY_AFTER_S
        return (self._count_waiting() + 1) * self._mean_service_s / self.policy.max_running

    @property
    def is_idle(self) -> bool:
        """True while no ticket waits or runs."""
        return not self._running and not any(self._queues.values())

    def stats(self) -> AdmissionStats:
        """Return a copy of all counts."""
        return AdmissionStats(
            queued={priority: len(queue) for priority, queue in self._queues.items()},
            running=len(self._running),
            encoded_bytes=self._encoded.used_bytes,
            mean_service_s=self._mean_service_s,
            reached=dict(self._reached),
            refusals=dict(self._refusals),
        )

    # --- rules ------------------------------------------------------------------------------

    def _find_refusal(self, now: float, ticket: Ticket) -> Refusal | None:
        if self.is_closed:
            return Refusal.CLOSED
        if ticket.deadline <= now:
            return Refusal.DEADLINE_PASSED
        if (
            self._count_waiting() + len(self._running)
            >= self.policy.max_running + self.policy.max_waiting
        ):
            return Refusal.QUEUE_FULL
        if not self._encoded.has_room(ticket.encoded_bytes):
            return Refusal.BYTES_FULL
        return None

    def _find_next(self, now: float) -> Ticket | None:
        """Return the ticket that starts next; None if all places are taken or no ticket waits."""
        if len(self._running) >= self.policy.max_running:
            return None
        stat = next(iter(self._queues[Priority.STAT].values()), None)
        routine = next(iter(self._queues[Priority.ROUTINE].values()), None)
        if stat is None or routine is None:
            return stat or routine
        is_aged = now - routine.offered_at >= self.policy.aged_s
        burst = 1 if is_aged else self.policy.stat_burst
        return routine if self._stat_in_a_row >= burst else stat

    def _start(self, ticket: Ticket, now: float) -> None:
        self._move(ticket, Event.START)
        del self._queues[ticket.priority][ticket.id]
        self._running[ticket.id] = ticket
        ticket.started_at = now
        has_overtaken = ticket.priority is Priority.STAT and self._queues[Priority.ROUTINE]
        self._stat_in_a_row = self._stat_in_a_row + 1 if has_overtaken else 0

    def _move(self, ticket: Ticket, event: Event) -> None:
        """Apply an event, or raise IllegalEvent before anything has changed."""
        target = TRANSITIONS.get((ticket.state, event))
        if target is None:
            raise IllegalEvent(event, ticket.state, ticket.id)
        ticket.state = target
        self._reached[target, ticket.priority] += 1

    def _remove(self, ticket: Ticket) -> None:
        if self._running.pop(ticket.id, None) is None:
            del self._queues[ticket.priority][ticket.id]
        self._encoded.release(ticket.encoded_bytes)

    def _count_waiting(self) -> int:
        return sum(map(len, self._queues.values()))

    def _iter_waiting(self) -> chain[Ticket]:
        return chain.from_iterable(queue.values() for queue in self._queues.values())
