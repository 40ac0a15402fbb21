"""Invariants of engine selection over any measurements."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.engine_selection import (
    MAX_DELAY,
    MIN_GAIN,
    ONE_AT_A_TIME,
    TIE_SHARE,
    BatchPolicy,
    BenchmarkResult,
    NoEngineAgrees,
    ThroughputTrial,
    choose_batching,
    select_variant,
)

TIMES = st.floats(0.01, 1e5)
PROBLEMS = st.sampled_from(["disagrees", "crashed", "did not answer"])
CANDIDATES = st.lists(
    st.tuples(TIMES | st.none(), PROBLEMS | st.just("")).map(
        lambda pair: pair if pair[0] is not None else (None, pair[1] or "crashed")
    ),
    max_size=6,
).map(lambda pairs: [BenchmarkResult(f"variant-{k}", ms, why) for k, (ms, why) in enumerate(pairs)])
POLICIES = st.builds(BatchPolicy, st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2]))
TRIALS = st.lists(
    st.builds(ThroughputTrial, POLICIES, TIMES, TIMES), unique_by=lambda result: result.policy
)


@given(CANDIDATES)
def test_the_selected_agrees_and_no_other_that_agrees_is_clearly_faster(
    measured: list[BenchmarkResult],
) -> None:
    agreeing = {
        result.variant: result.median_ms
        for result in measured
        if result.median_ms and not result.problem
    }
    if not agreeing:
        with pytest.raises(NoEngineAgrees):
            select_variant(measured)
        return
    decision = select_variant(measured)
    assert agreeing[decision.variant] <= min(agreeing.values()) * (1 + TIE_SHARE)
    assert all(result.variant in decision.reason for result in measured)


@given(CANDIDATES, PROBLEMS)
def test_a_candidate_that_disagrees_never_changes_the_selection(
    measured: list[BenchmarkResult], problem: str
) -> None:
    wrong = BenchmarkResult("wrong", 1e-9, problem)
    try:
        before = select_variant(measured)
    except NoEngineAgrees:
        with pytest.raises(NoEngineAgrees):
            select_variant([wrong, *measured])
    else:
        assert select_variant([wrong, *measured]).variant == before.variant


@given(CANDIDATES)
def test_an_earlier_candidate_is_passed_over_only_for_a_clearly_faster_one(
    measured: list[BenchmarkResult],
) -> None:
    try:
        chosen = select_variant(measured).variant
    except NoEngineAgrees:
        return
    fastest = min(
        result.median_ms for result in measured if result.is_eligible and result.median_ms
    )
    for result in measured:
        if result.variant == chosen:
            break
        assert not result.is_eligible or result.median_ms > fastest * (1 + TIE_SHARE)


@given(TRIALS)
def test_a_chosen_policy_gains_enough_and_delays_no_image_for_too_long(
    trials: list[ThroughputTrial],
) -> None:
    policy = choose_batching(trials)
    by_policy = {trial.policy: trial for trial in trials}
    if policy == ONE_AT_A_TIME:
        return
    alone, chosen = by_policy[ONE_AT_A_TIME], by_policy[policy]
    assert chosen.images_per_s >= alone.images_per_s * MIN_GAIN
    assert chosen.delay_ms <= alone.delay_ms * MAX_DELAY


@given(TRIALS)
def test_no_allowed_policy_has_a_higher_throughput(trials: list[ThroughputTrial]) -> None:
    by_policy = {trial.policy: trial for trial in trials}
    alone = by_policy.get(ONE_AT_A_TIME)
    if alone is None:
        assert choose_batching(trials) == ONE_AT_A_TIME
        return
    allowed = [
        result.images_per_s
        for result in trials
        if result.delay_ms <= alone.delay_ms * MAX_DELAY
        and result.images_per_s >= alone.images_per_s * MIN_GAIN
    ]
    assert by_policy[choose_batching(trials)].images_per_s == max(
        allowed, default=alone.images_per_s
    )
