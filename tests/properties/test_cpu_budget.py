"""A budget of processor time is kept over any stretch of time, but for one run."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.cpu_budget import CpuBudget

SHARES = st.sampled_from((0.01, 0.1, 0.5, 1.0, 2.0))
SECONDS = st.floats(0, 10)
# For each attempt: the time since the last one, how long a run lasts, and its processor time.
ATTEMPTS = st.lists(st.tuples(SECONDS, SECONDS, SECONDS), max_size=30)


@given(SHARES, ATTEMPTS)
def test_the_share_is_kept_over_any_stretch_but_for_one_run(
    share: float, attempts: list[tuple[float, float, float]]
) -> None:
    budget, now = CpuBudget(share), 1000.0
    runs: list[tuple[float, float, float]] = []
    for pause_s, lasts_s, cpu_s in attempts:
        now += pause_s
        assert budget.may_run(now) == (budget.wait_s(now) == 0)
        if not budget.may_run(now):
            continue
        start, now = now, now + lasts_s
        budget.spent(now, cpu_s)
        runs.append((start, now, cpu_s))
    for first, last in combinations(range(len(runs)), 2):
        length_s = runs[last][1] - runs[first][0]
        spent = [cpu_s for _, _, cpu_s in runs[first : last + 1]]
        assert sum(spent) - max(spent) <= share * length_s * (1 + 1e-9) + 1e-9


@given(SHARES, st.lists(SECONDS, min_size=1, max_size=10))
def test_charges_add_up(share: float, charges: list[float]) -> None:
    budget = CpuBudget(share)
    for cpu_s in charges:
        budget.spent(5.0, cpu_s)
    assert budget.wait_s(5.0) == pytest.approx(sum(charges) / share)
    assert budget.may_run(5.0 + sum(charges) / share + 1e-6)


@given(SHARES, SECONDS, SECONDS)
def test_a_run_may_start_as_soon_as_the_last_one_is_paid(
    share: float, end: float, cpu_s: float
) -> None:
    budget = CpuBudget(share)
    assert budget.may_run(-1e9)
    budget.spent(end, cpu_s)
    assert budget.may_run(end + budget.wait_s(end) + 1e-9)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_a_value_that_is_no_time_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="cannot be charged"):
        CpuBudget(0.1).spent(0.0, bad)
    with pytest.raises(ValueError, match="not a positive number"):
        CpuBudget(bad)
    with pytest.raises(ValueError, match="not a positive number"):
        CpuBudget(0)
