"""What is asked of the agent and what it answers; known to every face, bound to none."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_agent.core.admission import Priority
from edge_agent.core.findings import Finding
from edge_agent.core.radiograph import ImageFacts, ImageWarning


@dataclass(frozen=True, slots=True)
class DetectionRequest:
    """One study image to look at.

    `image` is the file as it is. `model` is the name of the model that is asked for; empty means
    the agent's one model. `score_threshold` replaces every operating point. `deadline` is a time of
    the event loop's clock in seconds; None means that the caller waits.
    """

    request_id: str
    image: bytes | memoryview = field(repr=False)
    score_threshold: float | None = None
    priority: Priority = Priority.ROUTINE
    deadline: float | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds per stage. `queue_ms` is all waiting for a free decoder or engine."""

    decode_ms: float
    queue_ms: float
    infer_ms: float
    postprocess_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class DetectionResult:
    """What was found on one study image, by which model.

    `findings` fall in score; empty means: looked, and nothing reached its threshold.
    """

    request_id: str
    findings: tuple[Finding, ...]
    image: ImageFacts
    warnings: tuple[ImageWarning, ...]
    bundle_digest: str
    engine: str
    timings: Timings
