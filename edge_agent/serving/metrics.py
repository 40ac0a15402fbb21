"""The agent's metrics for Prometheus: operational counts and times, no data of any patient.

The values of every label come from an enumeration or from the bundle in use, so callers cannot
increase the number of series. Each `AgentMetrics` has a registry of its own, so that two agents in
one process, as in tests, do not share counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from edge_agent.audit.log import AuditStatus
from edge_agent.core.admission import AdmissionStats, Priority, Refusal
from edge_agent.core.authorization import Action, DenialReason
from edge_agent.core.model_change import FINAL, Step
from edge_agent.decoding.pool import DecodeStats
from edge_agent.engines.model import LoadedModel
from edge_agent.security.tls import TlsStatus
from edge_agent.serving.model_control import ShadowStatus
from edge_agent.serving.observers import CompletedDetection
from edge_agent.serving.types import Timings
from hilum.catalog import CATALOG
from hilum.codes import ErrorCode, WarningCode

_BUCKETS_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
_BUNDLE_DIGITS: Final = 12
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class Transport(StrEnum):
    """The protocol of a request."""

    GRPC = "grpc"
    HTTP = "http"


class DecodeFailure(StrEnum):
    """The ways in which decoding fails other than by a refusal; keys of `DecodeStats.failures`."""

    ABANDONED = "abandoned"
    EXITED = "exited"
    PROTOCOL_VIOLATION = "protocol_violation"
    RAISED = "raised"
    TIMED_OUT = "timed_out"


@dataclass(frozen=True, slots=True)
class MetricSources:
    """Functions that return a part's state when metrics are read; None if there is no such part."""

    admission: Callable[[], AdmissionStats] | None = None
    audit: Callable[[], AuditStatus] | None = None
    decoding: Callable[[], DecodeStats] | None = None
    ready: Callable[[], bool] | None = None
    tls: Callable[[], TlsStatus | None] | None = None
    models: Callable[[], Iterable[LoadedModel]] | None = None
    model_changes: Callable[[], Mapping[Step, int]] | None = None
    shadows: Callable[[], Mapping[str, ShadowStatus]] | None = None
    observers_dropped: Callable[[], int] | None = None


class AgentMetrics:
    """All metrics of one agent. Recording is thread-safe and takes microseconds."""

    def __init__(self, sources: MetricSources = MetricSources()) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "hilum_requests",
            "Requests by outcome: ok, an error's code, or the reason why access was denied.",
            ("transport", "action", "outcome"),
            registry=self.registry,
        )
        self._stages = Histogram(
            "hilum_stage_seconds",
            "Time of each answered study image by stage, and in total.",
            ("stage",),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._findings = Counter(
            "hilum_findings",
            "Findings at or above their operating point, whatever threshold the caller set.",
            ("finding",),
            registry=self.registry,
        )
        self._warnings = Counter(
            "hilum_image_warnings",
            "Warnings of answered study images, by code.",
            ("code",),
            registry=self.registry,
        )
        self.registry.register(_StateCollector(sources))
        ProcessCollector(registry=self.registry)
        # A series needs a value of 0 before its first event, or that event has no rate.
        for transport in Transport:
            self._requests.labels(transport, Action.DETECT, "ok")
        for stage in fields(Timings):
            self._stages.labels(stage.name.removesuffix("_ms"))
        for finding in CATALOG:
            self._findings.labels(finding.slug)
        for code in WarningCode:
            self._warnings.labels(code)

    def count_request(
        self, transport: Transport, action: Action, outcome: ErrorCode | DenialReason | None = None
    ) -> None:
        """Count a request.

        Args:
            transport: the protocol of the request.
            action: the requested action.
            outcome: the error's code or the reason of the denial; None for a success.
        """
        value = "ok" if outcome is None else outcome.value
        self._requests.labels(Transport(transport), Action(action), value).inc()

    def completed(self, detection: CompletedDetection) -> None:
        """Record an answered image; implements `DetectionObserver`."""
        self.record_timings(detection.result.timings)
        points = detection.model.variant.operating_points
        for found in detection.candidates:
            slug = CATALOG[found.index].slug
            if found.score >= points[slug]:
                self._findings.labels(slug).inc()
        for warning in detection.result.warnings:
            self._warnings.labels(warning.code).inc()

    def failed(self, code: ErrorCode, bundle_digest: str) -> None:
        """Do nothing, because `count_request` counts failures by their code."""

    def record_timings(self, timings: Timings) -> None:
        """Record the times of an answered study image."""
        for stage in fields(timings):
            spent_s = getattr(timings, stage.name) / 1e3
            self._stages.labels(stage.name.removesuffix("_ms")).observe(spent_s)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format 0.0.4."""
        return generate_latest(self.registry)


class _StateCollector(Collector):
    """Reads the state of the agent's parts whenever metrics are read."""

    def __init__(self, sources: MetricSources) -> None:
        self._sources = sources

    def describe(self) -> list[Metric]:
        """Return nothing, because the parts do not exist yet when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read the state of each part."""
        if self._sources.ready is not None:
            yield GaugeMetricFamily(
                "hilum_ready", "1 while the agent answers.", value=float(self._sources.ready())
            )
        if self._sources.tls is not None:
            yield from _tls_metrics(self._sources.tls())
        if self._sources.models is not None:
            yield from _model_metrics(self._sources.models())
        if self._sources.model_changes is not None:
            yield from _change_metrics(self._sources.model_changes())
        if self._sources.shadows is not None:
            yield from _shadow_metrics(self._sources.shadows())
        if self._sources.observers_dropped is not None:
            yield CounterMetricFamily(
                "hilum_observer_dropped_outcomes",
                "Outcomes of detections that observers did not get, because too many waited.",
                self._sources.observers_dropped(),
            )
        if self._sources.admission is not None:
            yield from _admission_metrics(self._sources.admission())
        if self._sources.audit is not None:
            yield from _audit_metrics(self._sources.audit())
        if self._sources.decoding is not None:
            yield from _decoding_metrics(self._sources.decoding())


def _tls_metrics(status: TlsStatus | None) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "hilum_tls_not_after_timestamp_seconds",
        "Expiry of the TLS certificate in use that expires first; 0 without TLS.",
        value=status.not_after.timestamp() if status else 0.0,
    )
    yield GaugeMetricFamily(
        "hilum_tls_files_rejected",
        "1 while the TLS files on disk cannot be used, so that the previous ones stay in force.",
        value=float(status is not None and status.problem is not None),
    )


def _model_metrics(models: Iterable[LoadedModel]) -> Iterator[Metric]:
    served = GaugeMetricFamily(
        "hilum_model_info",
        "1 for each served model, its bundle and the engine in use.",
        labels=("model", "bundle", "engine", "variant"),
    )
    for model in models:
        labels = (
            model.manifest.name,
            model.digest[:_BUNDLE_DIGITS],
            model.engine.name,
            model.variant.name,
        )
        served.add_metric([text if _LABEL.fullmatch(text) else "other" for text in labels], 1)
    yield served


def _shadow_metrics(shadows: Mapping[str, ShadowStatus]) -> Iterator[Metric]:
    images = CounterMetricFamily(
        "hilum_shadow_images",
        "Answered images by what the shadow did with them.",
        labels=("bundle", "outcome"),
    )
    findings = CounterMetricFamily(
        "hilum_shadow_findings",
        "Findings of the served model and its shadow, by which of them has the finding.",
        labels=("bundle", "finding", "outcome"),
    )
    differences = CounterMetricFamily(
        "hilum_shadow_score_difference",
        "Sum of the absolute score differences of findings that both models have.",
        labels=("bundle", "finding"),
    )
    for shadow in shadows.values():
        bundle, agreement = shadow.bundle_digest[:_BUNDLE_DIGITS], shadow.agreement
        images.add_metric((bundle, "compared"), agreement.images)
        images.add_metric((bundle, "agreed"), agreement.images_agreeing)
        images.add_metric((bundle, "skipped"), shadow.skipped)
        images.add_metric((bundle, "failed"), shadow.failed)
        for index, counts in sorted(agreement.by_class.items()):
            slug = CATALOG[index].slug
            for outcome in ("matched", "active_only", "shadow_only"):
                findings.add_metric((bundle, slug, outcome), getattr(counts, outcome))
            differences.add_metric((bundle, slug), counts.difference_abs_sum)
    yield images
    yield findings
    yield differences


def _change_metrics(changes: Mapping[Step, int]) -> Iterator[Metric]:
    counted = CounterMetricFamily(
        "hilum_model_changes",
        "Changes of the served models by how they ended.",
        labels=("outcome",),
    )
    for step in sorted(FINAL):
        counted.add_metric((step,), changes.get(step, 0))
    yield counted


def _admission_metrics(stats: AdmissionStats) -> Iterator[Metric]:
    queued = GaugeMetricFamily("hilum_queued_requests", "Requests waiting.", labels=("priority",))
    for priority in Priority:
        queued.add_metric((priority,), stats.queued.get(priority, 0))
    yield queued
    yield GaugeMetricFamily("hilum_running_requests", "Requests that run.", value=stats.running)
    yield GaugeMetricFamily(
        "hilum_held_bytes",
        "Bytes of study images in requests, as sent.",
        value=stats.encoded_bytes,
    )
    refused = CounterMetricFamily(
        "hilum_admission_refusals",
        "Requests refused by admission, by reason.",
        labels=("reason",),
    )
    for reason in Refusal:
        refused.add_metric((reason,), stats.refusals.get(reason, 0))
    yield refused
    reached = CounterMetricFamily(
        "hilum_admission_tickets",
        "Requests by the state they reached.",
        labels=("state", "priority"),
    )
    for (state, priority), count in sorted(stats.reached.items()):
        reached.add_metric((state, priority), count)
    yield reached


def _decoding_metrics(stats: DecodeStats) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "hilum_decode_workers", "Decode workers that are up.", value=len(stats.pids)
    )
    yield CounterMetricFamily("hilum_decoded_images", "Images decoded.", stats.decoded)
    yield CounterMetricFamily(
        "hilum_decode_worker_restarts", "Decode workers that were replaced.", stats.replaced
    )
    failed = CounterMetricFamily(
        "hilum_decode_failures", "Images whose decoder failed, by reason.", labels=("reason",)
    )
    for failure in DecodeFailure:
        failed.add_metric((failure,), stats.failures.get(failure, 0))
    yield failed


def _audit_metrics(status: AuditStatus) -> Iterator[Metric]:
    failing = float(status.failure is not None)
    yield GaugeMetricFamily(
        "hilum_audit_failing",
        "1 while no access can be logged; detection is refused meanwhile.",
        failing,
    )
    yield GaugeMetricFamily(
        "hilum_audit_waiting_entries", "Entries yet to be made durable.", status.waiting
    )
    yield CounterMetricFamily(
        "hilum_audit_entries",
        "Entries in the audit log's chain since its beginning.",
        status.entries,
    )
    yield CounterMetricFamily(
        "hilum_audit_lost_entries", "Entries that found no room; denials or late ones.", status.lost
    )
    for name, text, value in (
        ("reserved_entries", "Entries for which the disk has reserved space.", status.reserved),
        ("reserve_wanted_entries", "Entries for which to reserve space.", status.reserve_wanted),
        ("exported_entries", "Entries before the end of the last export.", status.exported),
        ("size_bytes", "Size of the audit log's database, reserve included.", status.size_bytes),
    ):
        yield GaugeMetricFamily(f"hilum_audit_{name}", text, value)
