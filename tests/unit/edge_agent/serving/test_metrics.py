import threading
from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge_agent.audit.log import AuditStatus
from edge_agent.core.admission import AdmissionStats, Priority, Refusal, State
from edge_agent.core.authorization import Action, DenialReason
from edge_agent.core.model_change import Step
from edge_agent.decoding.pool import DecodeStats
from edge_agent.engines.model import LoadedModel
from edge_agent.security.tls import TlsStatus
from edge_agent.serving.metrics import AgentMetrics, MetricSources, Transport
from edge_agent.serving.types import DetectionRequest, Timings
from hilum.catalog import CATALOG
from hilum.codes import ErrorCode
from tests.support.agents.tagged import SIDE, fake_pipeline, manifest, settings, tagged_png
from tests.support.engines.fake_engine import FakeEngine

TIMINGS = Timings(decode_ms=12, queue_ms=0.5, infer_ms=80, postprocess_ms=1, total_ms=94)


def samples(metrics: AgentMetrics) -> dict[str, float]:
    """Every sample as Prometheus would read it: `name{label=value,...}`."""
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_requests_are_counted_by_outcome() -> None:
    metrics = AgentMetrics()
    assert samples(metrics)["hilum_requests_total{action=detect,outcome=ok,transport=grpc}"] == 0
    metrics.count_request(Transport.GRPC, Action.DETECT)
    metrics.count_request(Transport.GRPC, Action.DETECT)
    metrics.count_request(Transport.HTTP, Action.DETECT, ErrorCode.OVERLOADED)
    metrics.count_request(Transport.HTTP, Action.PAGE, DenialReason.WRONG_HOST)
    found = samples(metrics)
    assert found["hilum_requests_total{action=detect,outcome=ok,transport=grpc}"] == 2
    assert found["hilum_requests_total{action=detect,outcome=overloaded,transport=http}"] == 1
    assert found["hilum_requests_total{action=page,outcome=wrong_host,transport=http}"] == 1


def test_times_are_kept_in_seconds_by_stage() -> None:
    metrics = AgentMetrics()
    metrics.record_timings(TIMINGS)
    found = samples(metrics)
    stages = {"decode": 0.012, "queue": 0.0005, "infer": 0.08, "postprocess": 0.001, "total": 0.094}
    for stage, seconds in stages.items():
        assert found[f"hilum_stage_seconds_count{{stage={stage}}}"] == 1
        assert found[f"hilum_stage_seconds_sum{{stage={stage}}}"] == pytest.approx(seconds)
    assert found["hilum_stage_seconds_bucket{le=0.075,stage=infer}"] == 0
    assert found["hilum_stage_seconds_bucket{le=0.1,stage=infer}"] == 1


def test_decode_workers_are_counted_as_the_pool_counts_them() -> None:
    stats = DecodeStats(1, (2, 3), 1, decoded=7, replaced=2, failures={"timed_out": 2})
    found = samples(AgentMetrics(MetricSources(decoding=lambda: stats)))
    assert found["hilum_decode_workers"] == 2
    assert found["hilum_decoded_images_total"] == 7
    assert found["hilum_decode_worker_restarts_total"] == 2
    assert found["hilum_decode_failures_total{reason=timed_out}"] == 2
    assert found["hilum_decode_failures_total{reason=exited}"] == 0


def loaded(name: str = "toy", digest: str = "decaf0" * 10, variant: str = "fake") -> LoadedModel:
    declared = manifest(name=name)
    engine = FakeEngine(SIDE, SIDE, name=variant)
    chosen = declared.engines[0].model_copy(update={"name": variant})
    return LoadedModel(declared, digest, chosen, engine, "a test")


def test_the_served_models_are_those_of_the_moment() -> None:
    served = [loaded(digest="c0ffee" * 10)]
    metrics = AgentMetrics(MetricSources(models=lambda: served))
    samples(metrics)
    served[:] = [loaded(), loaded("other")]
    found = {name: value for name, value in samples(metrics).items() if "model_info" in name}
    assert found == {
        "hilum_model_info{bundle=decaf0decaf0,engine=fake,model=toy,variant=fake}": 1,
        "hilum_model_info{bundle=decaf0decaf0,engine=fake,model=other,variant=fake}": 1,
    }


@pytest.mark.parametrize("text", ["", "Doe^Jane", "a b", "x" * 65, "a\nb", "é", '"'])
def test_labels_take_no_free_text(text: str) -> None:
    metrics = AgentMetrics(MetricSources(models=lambda: [loaded(variant=text)]))
    found = samples(metrics)
    assert found["hilum_model_info{bundle=decaf0decaf0,engine=other,model=toy,variant=other}"] == 1


def test_changes_are_counted_by_how_they_ended() -> None:
    metrics = AgentMetrics(MetricSources(model_changes=lambda: {Step.ACTIVE: 2}))
    found = samples(metrics)
    assert found["hilum_model_changes_total{outcome=active}"] == 2
    assert found["hilum_model_changes_total{outcome=reverted}"] == 0


async def test_findings_are_counted_at_their_operating_points_whatever_the_caller_asked() -> None:
    metrics = AgentMetrics()
    service = fake_pipeline(settings())
    service.observers.add(metrics)
    for tag, threshold in ((200, 0.9), (201, None)):
        request = DetectionRequest(f"{tag}", tagged_png(tag), score_threshold=threshold)
        await service.detect(request)
    await service.observers.flush()
    found = samples(metrics)
    slugs = [CATALOG[tag % 14].slug for tag in (200, 201)]
    assert [found[f"hilum_findings_total{{finding={slug}}}"] for slug in slugs] == [1, 1]
    assert found["hilum_image_warnings_total{code=unknown_view}"] == 2
    assert found["hilum_stage_seconds_count{stage=total}"] == 2
    await service.close()


def test_a_label_outside_its_enumeration_is_an_error() -> None:
    metrics = AgentMetrics()
    with pytest.raises(ValueError, match="Doe"):
        metrics.count_request("Doe", Action.DETECT)  # type: ignore[arg-type]


def test_state_is_read_whenever_metrics_are_read() -> None:
    now = {"ready": False, "queued": 3, "failure": "No space left on device"}
    metrics = AgentMetrics(
        MetricSources(
            admission=lambda: AdmissionStats(
                queued={Priority.STAT: 1, Priority.ROUTINE: int(str(now["queued"]))},
                running=2,
                encoded_bytes=900_000,
                mean_service_s=0.1,
                reached={(State.DONE, Priority.STAT): 40},
                refusals={Refusal.QUEUE_FULL: 5},
            ),
            audit=lambda: AuditStatus(
                entries=100,
                waiting=4,
                lost=1,
                failure=str(now["failure"]) or None,
                exported=60,
                reserved=5,
                reserve_wanted=1000,
                size_bytes=4096,
            ),
            ready=lambda: bool(now["ready"]),
        )
    )
    found = samples(metrics)
    assert found["hilum_ready"] == 0
    assert found["hilum_queued_requests{priority=stat}"] == 1
    assert found["hilum_queued_requests{priority=routine}"] == 3
    assert found["hilum_running_requests"] == 2
    assert found["hilum_held_bytes"] == 900_000
    assert found["hilum_admission_refusals_total{reason=queue_full}"] == 5
    assert found["hilum_admission_tickets_total{priority=stat,state=done}"] == 40
    assert found["hilum_audit_failing"] == 1
    assert found["hilum_audit_waiting_entries"] == 4
    assert found["hilum_audit_entries_total"] == 100
    assert found["hilum_audit_lost_entries_total"] == 1
    assert found["hilum_audit_exported_entries"] == 60
    assert found["hilum_audit_reserved_entries"] == 5
    assert found["hilum_audit_reserve_wanted_entries"] == 1000
    assert found["hilum_audit_size_bytes"] == 4096
    now.update(ready=True, queued=0, failure="")
    found = samples(metrics)
    assert found["hilum_ready"] == 1
    assert found["hilum_queued_requests{priority=routine}"] == 0
    assert found["hilum_audit_failing"] == 0


def test_two_agents_do_not_share_counts() -> None:
    one, other = AgentMetrics(), AgentMetrics()
    one.count_request(Transport.GRPC, Action.DETECT)
    name = "hilum_requests_total{action=detect,outcome=ok,transport=grpc}"
    assert (samples(one)[name], samples(other)[name]) == (1, 0)


def test_the_process_is_measured_too() -> None:
    found = samples(AgentMetrics())
    assert found["process_resident_memory_bytes"] > 0
    assert found["process_open_fds"] > 0


def test_counts_of_many_threads_add_up() -> None:
    metrics = AgentMetrics()

    def work() -> None:
        for _ in range(500):
            metrics.count_request(Transport.GRPC, Action.DETECT)
            metrics.record_timings(TIMINGS)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = samples(metrics)
    assert found["hilum_requests_total{action=detect,outcome=ok,transport=grpc}"] == 2000
    assert found["hilum_stage_seconds_count{stage=total}"] == 2000


def test_the_tls_expiry_and_rejected_files_are_metrics() -> None:
    expiry = datetime.fromtimestamp(1.8e9, UTC)
    status: TlsStatus | None = None
    metrics = AgentMetrics(MetricSources(tls=lambda: status))
    assert samples(metrics)["hilum_tls_not_after_timestamp_seconds"] == 0
    for problem, rejected in ((None, 0), ("The key does not fit.", 1)):
        status = TlsStatus(expiry, problem)
        assert samples(metrics)["hilum_tls_not_after_timestamp_seconds"] == 1.8e9
        assert samples(metrics)["hilum_tls_files_rejected"] == rejected
