"""Whatever the agent does, every image leaves once, with its own outcome."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hilum.client import ErrorCode, Result, Retry
from hilum.client.batch import Batch, ended_early
from hilum.v1 import detection_pb2 as pb
from tests.support.agents.scripted import image_size_of, refused, streamed

TIMEOUT_S = 10.0
seconds = st.floats(0, 15)


class BatchMachine(RuleBasedStateMachine):
    """A caller, an agent that answers, refuses, dawdles or hangs up, and a clock."""

    @initialize(concurrency=st.integers(1, 4))
    def begin(self, concurrency: int) -> None:
        self.concurrency = concurrency
        # Lost streams never give up here: that is a decision of its own.
        self.batch: Batch[int] = Batch(concurrency, TIMEOUT_S, Retry(attempts=10**9))
        self.now = 0.0
        self.taken: dict[int, float] = {}
        self.left: set[int] = set()
        self.at_agent: dict[str, pb.DetectRequest] = {}

    @precondition(lambda self: self.batch.has_room)
    @rule()
    def take(self) -> None:
        key = len(self.taken) + 1
        self.taken[key] = self.now
        request = pb.DetectRequest(request_id=f"id-{key}", image=b"x" * key)
        self.batch.take(key, request, self.now)

    @rule()
    def send(self) -> None:
        for request in self.batch.due(self.now):
            assert request.request_id not in self.at_agent, "sent twice on one stream"
            self.at_agent[request.request_id] = request

    @precondition(lambda self: self.at_agent)
    @rule(data=st.data(), code=st.sampled_from([None, "truncated", "overloaded", "not_ready"]))
    def answer(self, data: st.DataObject, code: str | None) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.at_agent)))
        request = self.at_agent.pop(request_id)
        message = streamed(request) if code is None else refused(request, code)
        settled = self.batch.answer(message, self.now)
        if settled is None:
            assert code in {ErrorCode.OVERLOADED, ErrorCode.NOT_READY}
            return
        key, outcome = settled
        self.leave(key)
        assert request_id == f"id-{key}"
        if isinstance(outcome, Result):
            assert (code, image_size_of(outcome)) == (None, key)
        else:
            assert outcome.code == code

    @rule(seconds=seconds)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        late, drop = self.batch.expire(self.now)
        for key, error in late:
            self.leave(key)
            assert self.taken[key] + TIMEOUT_S <= self.now
            assert error.retryable
        if drop:
            self.at_agent.clear()
        assert drop or not any(f"id-{key}" in self.at_agent for key, _ in late)

    @precondition(lambda self: any(at + TIMEOUT_S > self.now + 2 for at in self.under_way()))
    @rule()
    def stream_breaks(self) -> None:
        self.at_agent.clear()
        self.batch.lost(ended_early(), self.now)

    @invariant()
    def all_that_was_taken_is_under_way_or_has_left(self) -> None:
        assert len(self.batch) == len(self.taken) - len(self.left)
        assert len(self.batch) <= self.concurrency
        if len(self.batch):
            assert 0 <= self.batch.wait_s(self.now) < TIMEOUT_S + 1e-6

    def leave(self, key: int) -> None:
        assert key in self.taken
        assert key not in self.left
        self.left.add(key)

    def under_way(self) -> list[float]:
        return [at for key, at in self.taken.items() if key not in self.left]


TestBatchMachine = BatchMachine.TestCase
