"""The gate: that futures, cancellations and the timer do what the core decides, and no more."""

from __future__ import annotations

import asyncio
import copy
import random
from dataclasses import dataclass, field

import pytest

from edge_agent.core.admission import AdmissionPolicy, Priority, Refusal, State
from edge_agent.errors import DeadlineExceeded, Overloaded
from edge_agent.serving.admission import AdmissionQueue

STAT, ROUTINE = Priority.STAT, Priority.ROUTINE


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Visitors:
    """Requests that hold their slot until told to leave."""

    gate: AdmissionQueue
    inside: list[str] = field(default_factory=list)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    doors: dict[str, asyncio.Event] = field(default_factory=dict)

    async def come(
        self, name: str, priority: Priority = ROUTINE, *, deadline: float | None = None
    ) -> asyncio.Task[None]:
        door = self.doors[name] = asyncio.Event()

        async def visit() -> None:
            async with self.gate.admit(priority, deadline=deadline):
                self.inside.append(name)
                try:
                    await door.wait()
                finally:
                    self.inside.remove(name)

        self.tasks[name] = asyncio.create_task(visit())
        await turns()
        return self.tasks[name]

    async def leave(self, name: str) -> None:
        self.doors[name].set()
        await self.tasks[name]
        await turns()


async def turns() -> None:
    """Let the loop run whatever is ready."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def visitors(clock: Clock, *, max_running: int = 1, max_waiting: int = 4) -> Visitors:
    return Visitors(
        AdmissionQueue(
            AdmissionPolicy(max_running=max_running, max_waiting=max_waiting), clock=clock
        )
    )


async def test_a_free_slot_is_taken_at_once_and_the_next_waits(clock: Clock) -> None:
    here = visitors(clock)
    await here.come("a")
    await here.come("b")
    await here.come("c", STAT)
    assert here.inside == ["a"]
    await here.leave("a")
    assert here.inside == ["c"]
    await here.leave("c")
    assert here.inside == ["b"]
    await here.leave("b")
    assert here.gate.stats().reached[State.DONE, ROUTINE] == 2


async def test_overload_is_refused_at_once_with_a_time_to_return(clock: Clock) -> None:
    here = visitors(clock, max_waiting=1)
    await here.come("a")
    await here.come("b")
    third = await here.come("c")
    with pytest.raises(Overloaded) as refused:
        await third
    assert refused.value.retry_after_s == 1.0
    assert copy.copy(refused.value).retry_after_s == 1.0
    await here.leave("a")
    await here.leave("b")


async def test_a_deadline_is_honoured_before_the_body_is_entered(clock: Clock) -> None:
    here = visitors(clock)
    await here.come("a")
    late = await here.come("late", deadline=clock.now + 5)
    in_time = await here.come("in time", deadline=clock.now + 6)
    clock.now += 5
    await here.leave("a")
    with pytest.raises(DeadlineExceeded):
        await late
    assert here.inside == ["in time"]
    clock.now += 5  # Once entered, the deadline has no say.
    here.gate.advance()
    await here.leave("in time")
    assert in_time.done()
    with pytest.raises(DeadlineExceeded):
        await (await here.come("too late", deadline=clock.now))


async def test_the_late_are_told_without_any_other_event() -> None:
    gate = AdmissionQueue(AdmissionPolicy(max_running=1))
    here = Visitors(gate)
    await here.come("a")
    loop = asyncio.get_running_loop()
    late = await here.come("late", deadline=loop.time() + 0.01)
    with pytest.raises(DeadlineExceeded):
        await late
    assert here.inside == ["a"]
    await here.leave("a")


async def test_cancelled_while_waiting_frees_the_place(clock: Clock) -> None:
    here = visitors(clock, max_waiting=1)
    await here.come("a")
    waiting = await here.come("b")
    waiting.cancel()
    await turns()
    await here.come("c")
    assert waiting.cancelled()
    await here.leave("a")
    assert here.inside == ["c"]
    await here.leave("c")


async def test_cancelled_inside_frees_the_slot(clock: Clock) -> None:
    here = visitors(clock)
    inside = await here.come("a")
    await here.come("b")
    inside.cancel()
    await turns()
    assert here.inside == ["b"]
    assert here.gate.stats().reached[State.CANCELLED, ROUTINE] == 1
    await here.leave("b")


async def test_cancelled_in_the_very_turn_in_which_its_slot_came_free(clock: Clock) -> None:
    here = visitors(clock)
    await here.come("a")
    unlucky = await here.come("b")
    await here.come("c")
    here.gate._waiters[2].add_done_callback(lambda _: unlucky.cancel())
    await here.leave("a")
    assert unlucky.cancelled()
    assert here.inside == ["c"]
    await here.leave("c")


async def test_cancelled_in_the_very_turn_in_which_it_expired(clock: Clock) -> None:
    here = visitors(clock)
    await here.come("a")
    unlucky = await here.come("b", deadline=clock.now + 1)
    clock.now += 1
    here.gate.advance()
    unlucky.cancel()
    await turns()
    assert unlucky.cancelled()
    await here.leave("a")
    assert here.gate.stats().reached[State.EXPIRED, ROUTINE] == 1


async def test_a_body_that_fails_frees_its_slot(clock: Clock) -> None:
    gate = AdmissionQueue(AdmissionPolicy(max_running=1), clock=clock)

    async def fail() -> None:
        async with gate.admit(ROUTINE):
            clock.now += 2
            raise LookupError("of its own")

    with pytest.raises(LookupError):
        await fail()
    stats = gate.stats()
    assert (stats.running, stats.mean_service_s) == (0, 2.0)


async def test_memory_is_refused_and_given_back(clock: Clock) -> None:
    gate = AdmissionQueue(AdmissionPolicy(max_running=2, encoded_bytes=100), clock=clock)
    async with gate.admit(ROUTINE, encoded_bytes=80):
        with pytest.raises(Overloaded, match="memory"):
            async with gate.admit(STAT, encoded_bytes=30):
                pytest.fail("let in")
    async with gate.admit(STAT, encoded_bytes=30) as ticket:
        assert ticket.state is State.RUNNING
    assert gate.stats().refusals == {Refusal.BYTES_FULL: 1}


async def test_a_crowd_with_random_cancellations_leaves_nothing_behind() -> None:
    chance = random.Random(7)
    policy = AdmissionPolicy(max_running=3, max_waiting=20, aged_s=0.001, encoded_bytes=60)
    gate = AdmissionQueue(policy)
    inside: set[int] = set()

    async def visit(number: int) -> str:
        deadline = asyncio.get_running_loop().time() + chance.choice([0.0005, 0.01, 5.0])
        try:
            async with gate.admit(
                chance.choice([STAT, ROUTINE]), deadline=deadline, encoded_bytes=number % 7
            ) as ticket:
                inside.add(ticket.id)
                assert len(inside) <= policy.max_running
                try:
                    for _ in range(number % 5):
                        await asyncio.sleep(0)
                finally:
                    inside.remove(ticket.id)
        except Overloaded:
            return "refused"
        except DeadlineExceeded:
            return "late"
        return "done"

    tasks = []
    for number in range(2000):
        tasks.append(asyncio.create_task(visit(number)))
        if number % 3 == 0:
            chance.choice(tasks).cancel()
        if number % 11 == 0:
            await asyncio.sleep(0)
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    kinds = {str(end) if isinstance(end, str) else type(end).__name__ for end in ends}
    assert (
        {"done", "refused", "CancelledError"}
        <= kinds
        <= {
            "done",
            "refused",
            "late",
            "CancelledError",
        }
    )
    stats = gate.stats()
    assert (stats.running, sum(stats.queued.values()), stats.encoded_bytes) == (0, 0, 0)
    assert not gate._waiters
