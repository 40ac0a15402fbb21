"""Detection requests and results, the same for every transport."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_agent.core.admission import Priority
from edge_agent.core.findings import Finding
from edge_agent.core.radiograph import ImageFacts, ImageWarning


@dataclass(frozen=True, slots=True)
class DetectionRequest:
    """A request to detect findings on one study image.

    `image` is the file as it was sent. `model` is the name of the requested model; empty means the
    agent's one model. `score_threshold` replaces every operating point. `deadline` is on the event
    loop's clock, in seconds; None means that there is none.
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
    """The findings on one study image, and the model that made them.

    `findings` are sorted by falling score. Empty means that the image was processed and that no
    score reached its threshold.
    """

    request_id: str
    findings: tuple[Finding, ...]
    image: ImageFacts
    warnings: tuple[ImageWarning, ...]
    bundle_digest: str
    engine: str
    timings: Timings
