"""Invariants of admission over any events in any order."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from edge_agent.core.admission import (
    Admission,
    AdmissionPolicy,
    Priority,
    Refusal,
    State,
    Ticket,
)

LAST = {State.DONE, State.EXPIRED, State.CANCELLED, State.REFUSED}


@dataclass
class TicketRecord:
    """The test's own record of an admitted ticket."""

    ticket: Ticket
    ahead: int  # Tickets of the same priority when this one was offered.
    starts_seen: int = 0
    started: bool = False
    ended: list[State] = field(default_factory=list)


class AdmissionMachine(RuleBasedStateMachine):
    tickets = Bundle("tickets")

    @initialize(
        max_running=st.integers(1, 3),
        max_waiting=st.integers(1, 6),
        stat_burst=st.integers(1, 3),
        aged_s=st.sampled_from([0.0, 2.0, math.inf]),
        encoded=st.integers(1, 40),
    )
    def begin(
        self,
        *,
        max_running: int,
        max_waiting: int,
        stat_burst: int,
        aged_s: float,
        encoded: int,
    ) -> None:
        self.policy = AdmissionPolicy(max_running, max_waiting, stat_burst, aged_s, encoded)
        self.queue = Admission(self.policy)
        self.now = 0.0
        self.records: dict[int, TicketRecord] = {}
        self.refused = 0

    # --- events -----------------------------------------------------------------------------

    @rule(
        target=tickets,
        priority=st.sampled_from(Priority),
        patience=st.sampled_from([0.0, 1.0, 2.0, 3.0, math.inf]),
        encoded_bytes=st.integers(0, 15),
    )
    def offer(self, priority: Priority, patience: float, encoded_bytes: int) -> Ticket:
        self.step()
        live = self.in_state(State.QUEUED) + self.in_state(State.RUNNING)
        ahead = sum(w.ticket.priority is priority for w in self.in_state(State.QUEUED))
        held = sum(w.ticket.encoded_bytes for w in live)
        ticket = self.queue.offer(
            self.now, priority, deadline=self.now + patience, encoded_bytes=encoded_bytes
        )
        if patience == 0.0:
            expected = Refusal.DEADLINE_PASSED
        elif len(live) >= self.policy.max_running + self.policy.max_waiting:
            expected = Refusal.QUEUE_FULL
        elif held and held + encoded_bytes > self.policy.encoded_bytes:
            expected = Refusal.BYTES_FULL
        else:
            expected = None
        assert ticket.refusal is expected
        assert (ticket.state is State.REFUSED) == (expected is not None)
        if expected is None:
            self.records[ticket.id] = TicketRecord(ticket, ahead)
        else:
            assert ticket.retry_after_s is not None
            assert ticket.retry_after_s >= 0
            self.refused += 1
        self.step()
        return ticket

    @rule(seconds=st.sampled_from([1.0, 2.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def step(self) -> None:
        step = self.queue.step(self.now)
        for ticket in step.expired:
            assert ticket.deadline <= self.now
            self.end(ticket, State.EXPIRED)
        for ticket in step.started:
            self.start(ticket)

    @rule(ticket=consumes(tickets))
    def finish(self, ticket: Ticket) -> None:
        if ticket.state is State.RUNNING:
            self.queue.finish(ticket, self.now)
            self.end(ticket, State.DONE)

    @rule(ticket=consumes(tickets))
    def cancel(self, ticket: Ticket) -> None:
        if ticket.state in {State.QUEUED, State.RUNNING}:
            self.queue.cancel(ticket)
            self.end(ticket, State.CANCELLED)

    # --- the test's own record --------------------------------------------------------------

    def start(self, ticket: Ticket) -> None:
        record = self.records[ticket.id]
        assert not record.started, "started twice"
        assert not record.ended, "started after its end"
        assert self.now < ticket.deadline, "started after its deadline"
        record.started = True
        for other in self.records.values():
            if other.started or other.ended:
                continue
            other.starts_seen += 1
            if other.ticket.priority is ticket.priority:
                assert other.ticket.id > ticket.id, "overtaken within its priority"
        burst = self.policy.stat_burst
        bound = (
            2 * record.ahead + 1
            if ticket.priority is Priority.STAT
            else (record.ahead + 1) * (burst + 1) - 1
        )
        assert record.starts_seen <= bound, "starved"

    def end(self, ticket: Ticket, state: State) -> None:
        record = self.records[ticket.id]
        assert ticket.state is state
        assert record.started == (state is State.DONE) or state is State.CANCELLED
        record.ended.append(state)

    def in_state(self, state: State) -> list[TicketRecord]:
        return [w for w in self.records.values() if w.ticket.state is state]

    # --- invariants -------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost_and_nothing_ends_twice(self) -> None:
        stats = self.queue.stats()
        assert sum(stats.queued.values()) == len(self.in_state(State.QUEUED))
        assert stats.running == len(self.in_state(State.RUNNING))
        for record in self.records.values():
            assert record.ended == ([record.ticket.state] if record.ticket.state in LAST else [])

    @invariant()
    def bounds_hold(self) -> None:
        running, queued = self.in_state(State.RUNNING), self.in_state(State.QUEUED)
        assert len(running) <= self.policy.max_running
        assert len(running) + len(queued) <= self.policy.max_running + self.policy.max_waiting
        sizes = [w.ticket.encoded_bytes for w in running + queued]
        used = self.queue.stats().encoded_bytes
        assert used == sum(sizes)
        assert used <= self.policy.encoded_bytes or len([size for size in sizes if size]) == 1

    @invariant()
    def no_place_is_free_while_a_ticket_waits(self) -> None:
        self.step()
        if len(self.in_state(State.RUNNING)) < self.policy.max_running:
            assert not self.in_state(State.QUEUED)

    def teardown(self) -> None:
        """Check that every admitted ticket starts once others have ended."""
        if not hasattr(self, "queue"):
            return
        while running := self.in_state(State.RUNNING):
            for record in running:
                self.queue.finish(record.ticket, self.now)
                self.end(record.ticket, State.DONE)
            self.step()
        assert self.queue.is_idle
        stats = self.queue.stats()
        assert stats.encoded_bytes == 0
        assert sum(stats.refusals.values()) == self.refused


TestAdmission = AdmissionMachine.TestCase
TestAdmission.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
