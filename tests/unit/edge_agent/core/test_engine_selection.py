"""Selection between measured candidates, and the stated reason."""

from __future__ import annotations

import pytest

from edge_agent.core.engine_selection import (
    ONE_AT_A_TIME,
    BatchPolicy,
    BenchmarkResult,
    NoEngineAgrees,
    ThroughputTrial,
    choose_batching,
    select_variant,
)

INT8 = BenchmarkResult("openvino-int8", 6.12)
FP32 = BenchmarkResult("openvino-fp32", 9.8)
ORT = BenchmarkResult("onnxruntime-fp32", 14.2)


def test_the_fastest_is_selected_and_the_reason_names_all() -> None:
    decision = select_variant([ORT, FP32, INT8])
    assert decision.variant == "openvino-int8"
    assert decision.reason == (
        "fastest of 3 that agree with the golden cases: "
        "openvino-int8 6.1 ms, openvino-fp32 9.8 ms, onnxruntime-fp32 14.2 ms"
    )


def test_a_fast_candidate_that_is_wrong_is_not_selected_and_the_reason_names_it() -> None:
    wrong = BenchmarkResult("openvino-int8", None, "disagrees with the golden cases (case-3: ...)")
    decision = select_variant([wrong, FP32, ORT])
    assert decision.variant == "openvino-fp32"
    assert decision.reason == (
        "fastest of 2 that agree with the golden cases: openvino-fp32 9.8 ms, "
        "onnxruntime-fp32 14.2 ms; not chosen: openvino-int8 disagrees with the golden cases "
        "(case-3: ...)"
    )


def test_the_bundles_order_decides_between_equals() -> None:
    first, second = BenchmarkResult("a", 10.2), BenchmarkResult("b", 10.0)
    assert select_variant([first, second]).variant == "a"
    assert select_variant([second, first]).variant == "b"
    assert select_variant([first, second]).reason == (
        "first in the bundle of those as fast as any of 2 that agree with the golden cases: "
        "b 10.0 ms, a 10.2 ms"
    )
    assert select_variant([BenchmarkResult("a", 10.4), second]).variant == "b"


def test_a_single_candidate_and_one_that_the_operator_set() -> None:
    assert select_variant([INT8]).reason == (
        "the only one that agrees with the golden cases: openvino-int8 6.1 ms"
    )
    assert select_variant([ORT], is_set_by_operator=True).reason == (
        "set by the operator; agrees with the golden cases: onnxruntime-fp32 14.2 ms"
    )


def test_no_engine_agrees_gives_the_reason_for_each() -> None:
    with pytest.raises(
        NoEngineAgrees, match=r"^a crashed its process \(SIGILL\); b did not answer$"
    ):
        select_variant(
            [
                BenchmarkResult("a", None, "crashed its process (SIGILL)"),
                BenchmarkResult("b", None, "did not answer", lasting=False),
            ]
        )
    with pytest.raises(NoEngineAgrees, match="no candidate"):
        select_variant([])


ALONE = ThroughputTrial(ONE_AT_A_TIME, images_per_s=100, delay_ms=10)
BATCH = BatchPolicy(max_batch=4)
BESIDE = BatchPolicy(parallel_requests=2)


def test_batches_are_used_where_they_raise_throughput() -> None:
    assert choose_batching([ALONE, ThroughputTrial(BATCH, 290, 13.8)]) == BATCH
    assert choose_batching([ALONE, ThroughputTrial(BATCH, 105, 13.8)]) == ONE_AT_A_TIME


def test_no_policy_delays_an_image_for_too_long() -> None:
    assert choose_batching([ALONE, ThroughputTrial(BESIDE, 130, 16)]) == ONE_AT_A_TIME
    assert choose_batching([ALONE, ThroughputTrial(BESIDE, 130, 14)]) == BESIDE


def test_without_a_trial_of_one_image_nothing_else_is_chosen() -> None:
    assert choose_batching([ThroughputTrial(BATCH, 290, 13.8)]) == ONE_AT_A_TIME
