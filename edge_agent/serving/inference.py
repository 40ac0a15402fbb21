"""From radiographs to findings: letterbox, content check, inference, decoding of the outputs.

Everything here blocks and runs on a thread of the `BatchExecutor`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from edge_agent.core.findings import (
    Finding,
    OutputsInvalid,
    decode_candidates,
    decode_findings,
    select_findings,
)
from edge_agent.core.geometry import Letterbox
from edge_agent.core.radiograph import ImageWarning, Radiograph
from edge_agent.engines.base import Pixels, RawOutputs
from edge_agent.engines.model import LoadedModel
from edge_agent.errors import EngineFailed
from edge_agent.imaging.letterbox import apply_letterbox
from edge_agent.serving.stage_timer import StageTimer


@dataclass(frozen=True, slots=True)
class InferenceJob:
    """A radiograph that waits for the engine.

    `score_threshold` replaces every operating point. `queued_at_s` is a value of
    `time.perf_counter`.
    """

    radiograph: Radiograph
    score_threshold: float | None
    timer: StageTimer
    queued_at_s: float


@dataclass(frozen=True, slots=True)
class ImageResult:
    """The findings on one radiograph, and all of its warnings.

    `candidates` are the findings from the head's score floor, whatever thresholds apply.
    """

    findings: tuple[Finding, ...]
    candidates: tuple[Finding, ...]
    warnings: tuple[ImageWarning, ...]


@dataclass(frozen=True, slots=True)
class _ModelInput:
    """A radiograph as the model takes it: u8 (H, W) of the manifest's input size."""

    letterbox: Letterbox
    pixels: Pixels
    warnings: tuple[ImageWarning, ...]


def run_inference(
    model: LoadedModel, jobs: Sequence[InferenceJob]
) -> list[ImageResult | Exception]:
    """Run a batch of jobs on the model.

    A failing job fails alone; if the engine fails, the whole batch fails. Letterboxing is timed as
    decoding and the content check as inference. Each image is charged the time of its whole batch.

    Returns:
        One result, or the exception, for each job, in the jobs' order.
    """
    outcomes: dict[int, ImageResult | Exception] = {}
    inputs: dict[int, _ModelInput] = {}
    for index, job in enumerate(jobs):
        job.timer.add_since(job.queued_at_s, "queue")
        try:
            inputs[index] = _prepare(model, job)
        except Exception as error:  # noqa: BLE001  # the outcome of this job
            outcomes[index] = error
    if inputs:
        batch = np.stack([prepared.pixels for prepared in inputs.values()])[:, None]
        try:
            outputs = _infer(model, batch, [jobs[index].timer for index in inputs])
        except Exception as error:  # noqa: BLE001  # the outcome of every job in the batch
            outcomes |= dict.fromkeys(inputs, error)
        else:
            for (index, prepared), output in zip(inputs.items(), outputs, strict=True):
                outcomes[index] = _find(model, jobs[index], output, prepared)
    return [outcomes[index] for index in range(len(jobs))]


def infer_blank(model: LoadedModel) -> None:
    """Run the engine on one black image, to see that it still computes.

    The content check, which would refuse the image, is not run.
    """
    size = model.manifest.input
    model.engine.infer(np.zeros((1, 1, size.height, size.width), np.uint8))


def _prepare(model: LoadedModel, job: InferenceJob) -> _ModelInput:
    radiograph, size = job.radiograph, model.manifest.input
    facts, warnings = radiograph.facts, radiograph.warnings
    with job.timer.measure("decode"):
        box = Letterbox.fit(facts.rows, facts.columns, size.height, size.width)
        pixels = apply_letterbox(radiograph.pixels, box, size.pad_value)
    if model.content_checker is not None:
        with job.timer.measure("infer"):
            verdict = model.content_checker.judge(radiograph.pixels)
        verdict.raise_if_refused()
        warnings = verdict.merge_warnings(warnings)
    return _ModelInput(box, pixels, warnings)


def _infer(model: LoadedModel, batch: Pixels, timers: Sequence[StageTimer]) -> RawOutputs:
    with ExitStack() as stack:
        for timer in timers:
            stack.enter_context(timer.measure("infer"))
        return model.engine.infer(batch)


def _find(
    model: LoadedModel, job: InferenceJob, output: RawOutputs, prepared: _ModelInput
) -> ImageResult | Exception:
    head, indexes = model.manifest.head, model.manifest.catalogue_indexes
    thresholds = model.thresholds(job.score_threshold)
    with job.timer.measure("postprocess"):
        try:
            candidates = decode_candidates(output, prepared.letterbox, head, indexes)
            findings = select_findings(candidates, head, thresholds, indexes)
            if findings is None:
                findings = decode_findings(output, prepared.letterbox, head, thresholds, indexes)
        except OutputsInvalid as error:
            return EngineFailed(f"{model.engine.name} gave no sound outputs: {error}.")
    return ImageResult(findings, candidates, prepared.warnings)
