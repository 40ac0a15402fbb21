"""Measures the time that a request spends in each stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from edge_agent.serving.types import Timings

Stage = Literal["decode", "queue", "infer", "postprocess"]


@dataclass(slots=True)
class StageTimer:
    """Milliseconds of one request by stage, from its creation on."""

    started_s: float = field(default_factory=time.perf_counter)
    spent_ms: dict[Stage, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, stage: Stage) -> Iterator[None]:
        """Add the duration of the block to a stage."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self.add_since(start_s, stage)

    def add_since(self, start_s: float, stage: Stage) -> None:
        """Add the time since `start_s`, a value of `time.perf_counter`, to a stage."""
        elapsed_ms = (time.perf_counter() - start_s) * 1e3
        self.spent_ms[stage] = self.spent_ms.get(stage, 0.0) + elapsed_ms

    def timings(self) -> Timings:
        """Return the time spent so far."""
        return Timings(
            decode_ms=self.spent_ms["decode"],
            queue_ms=self.spent_ms["queue"],
            infer_ms=self.spent_ms["infer"],
            postprocess_ms=self.spent_ms["postprocess"],
            total_ms=(time.perf_counter() - self.started_s) * 1e3,
        )
