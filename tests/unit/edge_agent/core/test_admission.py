"""The queue's rules, one by one. Invariants over any order of events are in tests/properties."""

from __future__ import annotations

import itertools
import math

import pytest

from edge_agent.core.admission import (
    DEFAULT_RETRY_AFTER_S,
    TRANSITIONS,
    Admission,
    AdmissionPolicy,
    ByteBudget,
    Event,
    IllegalEvent,
    Priority,
    Refusal,
    State,
    Ticket,
)

STAT, ROUTINE = Priority.STAT, Priority.ROUTINE


def admission(**policy: float) -> Admission:
    return Admission(AdmissionPolicy(**{"max_running": 1, "max_waiting": 8, **policy}))  # type: ignore[arg-type]


def offer(
    queue: Admission,
    priority: Priority = ROUTINE,
    *,
    now: float = 0.0,
    deadline: float = math.inf,
    encoded_bytes: int = 0,
) -> Ticket:
    return queue.offer(now, priority, deadline=deadline, encoded_bytes=encoded_bytes)


def order_of_starts(queue: Admission, now: float = 0.0) -> list[int]:
    """Run all tickets, one after the other."""
    order: list[int] = []
    while started := queue.step(now).started:
        for ticket in started:
            order.append(ticket.id)
            queue.finish(ticket, now)
    return order


def bring_to(queue: Admission, state: State) -> Ticket:
    """Return a ticket of `queue` in a state."""
    if state is State.REFUSED:
        ticket = offer(queue, deadline=0.0)
    elif state is State.EXPIRED:
        ticket = offer(queue, deadline=1.0)
        queue.step(1.0)
    else:
        ticket = offer(queue)
        if state is not State.QUEUED:
            queue.step(0.0)
        if state is State.DONE:
            queue.finish(ticket, 2.0)
        if state is State.CANCELLED:
            queue.cancel(ticket)
    assert ticket.state is state
    return ticket


def test_every_state_but_the_final_ones_has_a_transition() -> None:
    last = {State.DONE, State.EXPIRED, State.CANCELLED, State.REFUSED}
    assert {state for state, _ in TRANSITIONS} == set(State) - last
    assert set(TRANSITIONS.values()) == set(State) - {State.OFFERED}


@pytest.mark.parametrize(
    ("state", "event"),
    [pair for pair in itertools.product(State, Event) if pair not in TRANSITIONS],
)
def test_a_rejected_event_changes_nothing(state: State, event: Event) -> None:
    queue = admission(max_running=2)
    if state is State.OFFERED:
        ticket = Ticket(1, ROUTINE, math.inf, 0, 0.0)
    else:
        ticket = bring_to(queue, state)
    offer(queue)
    public = {
        Event.FINISH: lambda: queue.finish(ticket, 9.0),
        Event.CANCEL: lambda: queue.cancel(ticket),
    }
    before = repr((vars(queue), ticket))
    with pytest.raises(IllegalEvent, match=f"{event} is not allowed .* {state}"):
        public.get(event, lambda: queue._move(ticket, event))()
    assert repr((vars(queue), ticket)) == before


def test_stat_starts_first_and_within_a_class_the_first_come() -> None:
    queue = admission()
    tickets = [offer(queue, p) for p in (ROUTINE, STAT, ROUTINE, STAT)]
    assert order_of_starts(queue) == [tickets[i].id for i in (1, 3, 0, 2)]


def test_after_a_burst_of_stat_one_routine_starts() -> None:
    queue = admission(stat_burst=2)
    routine = [offer(queue, ROUTINE).id for _ in range(2)]
    stat = [offer(queue, STAT).id for _ in range(5)]
    assert order_of_starts(queue) == [*stat[:2], routine[0], *stat[2:4], routine[1], stat[4]]


def test_stat_that_overtook_no_routine_does_not_count_as_a_burst() -> None:
    queue = admission(stat_burst=2)
    for _ in range(2):
        offer(queue, STAT)
    order_of_starts(queue)
    routine = offer(queue, ROUTINE)
    stat = [offer(queue, STAT).id for _ in range(2)]
    assert order_of_starts(queue) == [*stat, routine.id]


def test_an_aged_routine_is_due_after_a_single_stat() -> None:
    queue = admission(stat_burst=4, aged_s=5.0)
    routine = [offer(queue, ROUTINE).id for _ in range(2)]
    stat = [offer(queue, STAT).id for _ in range(3)]
    assert order_of_starts(queue, now=5.0) == [stat[0], routine[0], stat[1], routine[1], stat[2]]


def test_tickets_past_their_deadline_expire_and_are_never_started() -> None:
    queue = admission(max_running=2)
    late, in_time = offer(queue, deadline=1.0), offer(queue, deadline=1.5)
    assert queue.next_deadline() == 1.0
    step = queue.step(1.0)
    assert (step.expired, step.started) == ((late,), (in_time,))
    assert late.state is State.EXPIRED


def test_an_offer_whose_deadline_has_passed_is_refused() -> None:
    ticket = offer(admission(), now=2.0, deadline=2.0)
    assert (ticket.state, ticket.refusal) == (State.REFUSED, Refusal.DEADLINE_PASSED)


def test_overload_is_refused_at_once_until_a_place_is_free() -> None:
    queue = admission(max_running=1, max_waiting=2)
    tickets = [offer(queue) for _ in range(3)]
    queue.step(0.0)
    assert offer(queue).refusal is Refusal.QUEUE_FULL
    queue.cancel(tickets[2])
    assert offer(queue).state is State.QUEUED
    assert offer(queue).refusal is Refusal.QUEUE_FULL
    queue.cancel(tickets[0])  # The running one; its place is free, too.
    assert queue.step(0.0).started == (tickets[1],)
    assert offer(queue).state is State.QUEUED


def test_retry_after_follows_the_recent_service_time() -> None:
    queue = admission(max_running=2, max_waiting=1)
    assert queue.estimate_retry_after_s() == DEFAULT_RETRY_AFTER_S
    tickets = [offer(queue) for _ in range(2)]
    queue.step(0.0)
    for ticket in tickets:
        queue.finish(ticket, 4.0)
    waiting = [offer(queue, now=5.0) for _ in range(3)]
    queue.step(5.0)
    refused = offer(queue, now=5.0)
    assert len(waiting) == 3
    assert refused.retry_after_s == pytest.approx(2 * 4.0 / 2)


def test_a_request_larger_than_the_whole_budget_is_admitted_alone() -> None:
    queue = admission(max_running=4, encoded_bytes=100)
    huge = offer(queue, encoded_bytes=500)
    assert queue.step(0.0).started == (huge,)
    assert offer(queue, encoded_bytes=1).refusal is Refusal.BYTES_FULL
    queue.finish(huge, 1.0)
    small = offer(queue, encoded_bytes=10)
    assert queue.step(1.0).started == (small,)
    assert offer(queue, encoded_bytes=500).refusal is Refusal.BYTES_FULL


def test_encoded_bytes_are_bounded_over_waiting_and_running() -> None:
    queue = admission(max_running=1, encoded_bytes=100)
    first, second = offer(queue, encoded_bytes=60), offer(queue, encoded_bytes=40)
    queue.step(0.0)
    assert offer(queue, encoded_bytes=1).refusal is Refusal.BYTES_FULL
    queue.cancel(second)
    assert offer(queue, encoded_bytes=40).state is State.QUEUED
    queue.finish(first, 1.0)
    assert queue.stats().encoded_bytes == 40


def test_after_close_offers_are_refused_and_admitted_tickets_end() -> None:
    queue = admission()
    ticket = offer(queue)
    queue.close()
    assert offer(queue).refusal is Refusal.CLOSED
    assert order_of_starts(queue) == [ticket.id]
    assert queue.is_idle


def test_stats_count_every_state_reached() -> None:
    queue = admission(max_waiting=2)
    done, _gone, cancelled = offer(queue, STAT), offer(queue, deadline=1.0), offer(queue)
    offer(queue)
    queue.step(0.0)
    queue.cancel(cancelled)
    queue.finish(done, 1.0)
    queue.step(1.0)
    stats = queue.stats()
    assert stats.queued == {STAT: 0, ROUTINE: 0}
    assert (stats.running, stats.mean_service_s) == (0, 1.0)
    assert stats.refusals == {Refusal.QUEUE_FULL: 1}
    assert stats.reached == {
        (State.QUEUED, STAT): 1,
        (State.QUEUED, ROUTINE): 2,
        (State.REFUSED, ROUTINE): 1,
        (State.RUNNING, STAT): 1,
        (State.CANCELLED, ROUTINE): 1,
        (State.DONE, STAT): 1,
        (State.EXPIRED, ROUTINE): 1,
    }


def test_a_budget_reserves_all_or_nothing() -> None:
    budget = ByteBudget(10)
    assert budget.reserve(8)
    assert not budget.reserve(3)
    assert budget.used_bytes == 8
    with pytest.raises(ValueError, match="cannot release 9"):
        budget.release(9)
    with pytest.raises(ValueError, match="negative"):
        budget.reserve(-1)
    budget.release(8)
    assert budget.reserve(11)
    assert not budget.reserve(1)


@pytest.mark.parametrize(
    "bad",
    [
        {"max_running": 0},
        {"max_waiting": -1},
        {"stat_burst": 0},
        {"aged_s": -1.0},
        {"encoded_bytes": 0},
    ],
)
def test_invalid_bounds_are_rejected(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least"):
        AdmissionPolicy(**bad)  # type: ignore[arg-type]


def test_negative_sizes_are_rejected() -> None:
    with pytest.raises(ValueError, match="negative"):
        offer(admission(), encoded_bytes=-1)
