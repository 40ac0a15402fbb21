"""Fake candidates for the selection of an engine, without processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_agent.engines.selection.probe import Probe, ProbeJob, ProbeReady, TimingRequest

Time = Callable[[ProbeJob, TimingRequest], float]


@dataclass
class FakeCandidates:
    """Fake candidates by variant; `times` gives milliseconds or raises."""

    times: dict[str, Time | float]
    problems: dict[str, str] = field(default_factory=dict)
    refusals: dict[str, Exception] = field(default_factory=dict)
    max_batch: int = 1
    started: list[ProbeJob] = field(default_factory=list)
    running: Counter[ProbeJob] = field(default_factory=Counter)
    timed: list[tuple[str, TimingRequest]] = field(default_factory=list)
    peaks: dict[str, int] = field(default_factory=dict)
    most_running: int = 0

    def start(self, job: ProbeJob) -> Probe:
        self.started.append(job)
        if isinstance(refusal := self.refusals.get(job.variant), OSError):
            raise refusal
        self.running[job] += 1
        self.most_running = max(self.most_running, self.running.total())
        return FakeProbe(self, job)


@dataclass
class FakeProbe:
    candidates: FakeCandidates
    job: ProbeJob

    @property
    def peak_bytes(self) -> int:
        return self.candidates.peaks.get(self.job.variant, 0)

    def opened(self, until: float) -> ProbeReady:
        if refusal := self.candidates.refusals.get(self.job.variant):
            raise refusal
        return ProbeReady(
            self.candidates.problems.get(self.job.variant, ""), self.candidates.max_batch
        )

    def time(self, timing: TimingRequest, limit_s: float) -> float:
        assert self.candidates.running[self.job], "timed after its end"
        self.candidates.timed.append((self.job.variant, timing))
        time = self.candidates.times[self.job.variant]
        return time(self.job, timing) if callable(time) else time * timing.images * timing.calls

    def end(self) -> None:
        self.candidates.running.pop(self.job, None)
