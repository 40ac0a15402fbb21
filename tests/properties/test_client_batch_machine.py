"""Whatever the agent does, every image is removed once, with its own outcome."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hilum.client import ErrorCode, Result, Retry
from hilum.client.batch import Batch, stream_ended_error
from hilum.v1 import detection_pb2 as pb
from tests.support.agents.scripted import image_size_of, refused, streamed

TIMEOUT_S = 10.0
seconds = st.floats(0, 15)


class BatchMachine(RuleBasedStateMachine):
    """A caller, an agent that answers, refuses, is slow or breaks the stream, and a clock."""

    @initialize(concurrency=st.integers(1, 4))
    def begin(self, concurrency: int) -> None:
        self.concurrency = concurrency
        # The number of broken streams is not limited: other tests cover the limit.
        self.batch: Batch[int] = Batch(concurrency, TIMEOUT_S, Retry(attempts=10**9))
        self.now = 0.0
        self.added_at: dict[int, float] = {}
        self.removed: set[int] = set()
        self.at_agent: dict[str, pb.DetectRequest] = {}

    @precondition(lambda self: self.batch.has_room)
    @rule()
    def add(self) -> None:
        key = len(self.added_at) + 1
        self.added_at[key] = self.now
        request = pb.DetectRequest(request_id=f"id-{key}", image=b"x" * key)
        self.batch.add(key, request, self.now)

    @rule()
    def send(self) -> None:
        for request in self.batch.pop_due(self.now):
            assert request.request_id not in self.at_agent, "sent twice on one stream"
            self.at_agent[request.request_id] = request

    @precondition(lambda self: self.at_agent)
    @rule(data=st.data(), code=st.sampled_from([None, "truncated", "overloaded", "not_ready"]))
    def answer(self, data: st.DataObject, code: str | None) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.at_agent)))
        request = self.at_agent.pop(request_id)
        message = streamed(request) if code is None else refused(request, code)
        answered = self.batch.handle_answer(message, self.now)
        if answered is None:
            assert code in {ErrorCode.OVERLOADED, ErrorCode.NOT_READY}
            return
        key, outcome = answered
        self.remove(key)
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
            self.remove(key)
            assert self.added_at[key] + TIMEOUT_S <= self.now
            assert error.retryable
        if drop:
            self.at_agent.clear()
        assert drop or not any(f"id-{key}" in self.at_agent for key, _ in late)

    @precondition(lambda self: any(at > self.now + 2 for at in self.deadlines_in_progress()))
    @rule()
    def stream_breaks(self) -> None:
        self.at_agent.clear()
        self.batch.handle_loss(stream_ended_error(), self.now)

    @invariant()
    def all_added_images_are_in_progress_or_removed(self) -> None:
        assert len(self.batch) == len(self.added_at) - len(self.removed)
        assert len(self.batch) <= self.concurrency
        if len(self.batch):
            assert 0 <= self.batch.compute_wait_s(self.now) < TIMEOUT_S + 1e-6

    def remove(self, key: int) -> None:
        assert key in self.added_at
        assert key not in self.removed
        self.removed.add(key)

    def deadlines_in_progress(self) -> list[float]:
        return [at + TIMEOUT_S for key, at in self.added_at.items() if key not in self.removed]


TestBatchMachine = BatchMachine.TestCase
