"""The admission queue: futures, cancellations and the timer do what the core decides."""

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
class Requests:
    """Requests that run until the test ends them."""

    queue: AdmissionQueue
    running: list[str] = field(default_factory=list)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    end_events: dict[str, asyncio.Event] = field(default_factory=dict)

    async def start(
        self, name: str, priority: Priority = ROUTINE, *, deadline: float | None = None
    ) -> asyncio.Task[None]:
        end_event = self.end_events[name] = asyncio.Event()

        async def run() -> None:
            async with self.queue.admit(priority, deadline=deadline):
                self.running.append(name)
                try:
                    await end_event.wait()
                finally:
                    self.running.remove(name)

        self.tasks[name] = asyncio.create_task(run())
        await turns()
        return self.tasks[name]

    async def end(self, name: str) -> None:
        self.end_events[name].set()
        await self.tasks[name]
        await turns()


async def turns() -> None:
    """Let the event loop run everything that is ready."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make_requests(clock: Clock, *, max_running: int = 1, max_waiting: int = 4) -> Requests:
    return Requests(
        AdmissionQueue(
            AdmissionPolicy(max_running=max_running, max_waiting=max_waiting), clock=clock
        )
    )


async def test_a_request_runs_at_once_if_it_can_and_waits_otherwise(clock: Clock) -> None:
    requests = make_requests(clock)
    await requests.start("a")
    await requests.start("b")
    await requests.start("c", STAT)
    assert requests.running == ["a"]
    await requests.end("a")
    assert requests.running == ["c"]
    await requests.end("c")
    assert requests.running == ["b"]
    await requests.end("b")
    assert requests.queue.stats().reached[State.DONE, ROUTINE] == 2


async def test_overload_is_refused_at_once_with_a_retry_time(clock: Clock) -> None:
    requests = make_requests(clock, max_waiting=1)
    await requests.start("a")
    await requests.start("b")
    third = await requests.start("c")
    with pytest.raises(Overloaded) as refused:
        await third
    assert refused.value.retry_after_s == 1.0
    assert copy.copy(refused.value).retry_after_s == 1.0
    await requests.end("a")
    await requests.end("b")


async def test_the_body_is_never_entered_after_the_deadline(clock: Clock) -> None:
    requests = make_requests(clock)
    await requests.start("a")
    late = await requests.start("late", deadline=clock.now + 5)
    in_time = await requests.start("in time", deadline=clock.now + 6)
    clock.now += 5
    await requests.end("a")
    with pytest.raises(DeadlineExceeded):
        await late
    assert requests.running == ["in time"]
    clock.now += 5  # A deadline does not end a body that runs.
    requests.queue.advance()
    await requests.end("in time")
    assert in_time.done()
    with pytest.raises(DeadlineExceeded):
        await (await requests.start("too late", deadline=clock.now))


async def test_a_deadline_expires_without_any_other_event() -> None:
    queue = AdmissionQueue(AdmissionPolicy(max_running=1))
    requests = Requests(queue)
    await requests.start("a")
    loop = asyncio.get_running_loop()
    late = await requests.start("late", deadline=loop.time() + 0.01)
    with pytest.raises(DeadlineExceeded):
        await late
    assert requests.running == ["a"]
    await requests.end("a")


async def test_a_request_cancelled_while_it_waits_leaves_the_queue(clock: Clock) -> None:
    requests = make_requests(clock, max_waiting=1)
    await requests.start("a")
    waiting = await requests.start("b")
    waiting.cancel()
    await turns()
    await requests.start("c")
    assert waiting.cancelled()
    await requests.end("a")
    assert requests.running == ["c"]
    await requests.end("c")


async def test_a_request_cancelled_while_it_runs_lets_the_next_run(clock: Clock) -> None:
    requests = make_requests(clock)
    inside = await requests.start("a")
    await requests.start("b")
    inside.cancel()
    await turns()
    assert requests.running == ["b"]
    assert requests.queue.stats().reached[State.CANCELLED, ROUTINE] == 1
    await requests.end("b")


async def test_a_request_cancelled_in_the_loop_turn_of_its_start(clock: Clock) -> None:
    requests = make_requests(clock)
    await requests.start("a")
    cancelled = await requests.start("b")
    await requests.start("c")
    requests.queue._waiters[2].add_done_callback(lambda _: cancelled.cancel())
    await requests.end("a")
    assert cancelled.cancelled()
    assert requests.running == ["c"]
    await requests.end("c")


async def test_a_request_cancelled_in_the_loop_turn_of_its_expiry(clock: Clock) -> None:
    requests = make_requests(clock)
    await requests.start("a")
    cancelled = await requests.start("b", deadline=clock.now + 1)
    clock.now += 1
    requests.queue.advance()
    cancelled.cancel()
    await turns()
    assert cancelled.cancelled()
    await requests.end("a")
    assert requests.queue.stats().reached[State.EXPIRED, ROUTINE] == 1


async def test_a_body_that_fails_lets_the_next_run(clock: Clock) -> None:
    queue = AdmissionQueue(AdmissionPolicy(max_running=1), clock=clock)

    async def fail() -> None:
        async with queue.admit(ROUTINE):
            clock.now += 2
            raise LookupError("in the body")

    with pytest.raises(LookupError):
        await fail()
    stats = queue.stats()
    assert (stats.running, stats.mean_service_s) == (0, 2.0)


async def test_memory_is_bounded_and_freed(clock: Clock) -> None:
    queue = AdmissionQueue(AdmissionPolicy(max_running=2, encoded_bytes=100), clock=clock)
    async with queue.admit(ROUTINE, encoded_bytes=80):
        with pytest.raises(Overloaded, match="memory"):
            async with queue.admit(STAT, encoded_bytes=30):
                pytest.fail("admitted")
    async with queue.admit(STAT, encoded_bytes=30) as ticket:
        assert ticket.state is State.RUNNING
    assert queue.stats().refusals == {Refusal.BYTES_FULL: 1}


async def test_many_requests_with_random_cancellations_leave_nothing_behind() -> None:
    rng = random.Random(7)
    policy = AdmissionPolicy(max_running=3, max_waiting=20, aged_s=0.001, encoded_bytes=60)
    queue = AdmissionQueue(policy)
    inside: set[int] = set()

    async def run(number: int) -> str:
        deadline = asyncio.get_running_loop().time() + rng.choice([0.0005, 0.01, 5.0])
        try:
            async with queue.admit(
                rng.choice([STAT, ROUTINE]), deadline=deadline, encoded_bytes=number % 7
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
        tasks.append(asyncio.create_task(run(number)))
        if number % 3 == 0:
            rng.choice(tasks).cancel()
        if number % 11 == 0:
            await asyncio.sleep(0)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    kinds = {str(end) if isinstance(end, str) else type(end).__name__ for end in outcomes}
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
    stats = queue.stats()
    assert (stats.running, sum(stats.queued.values()), stats.encoded_bytes) == (0, 0, 0)
    assert not queue._waiters
