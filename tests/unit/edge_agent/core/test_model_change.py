"""The steps of a change of the model, and which model may take another's place."""

from __future__ import annotations

import itertools

import pytest

from edge_agent.core.model_change import (
    DESCRIPTIONS,
    FINAL,
    TRANSITIONS,
    IllegalStep,
    ModelChange,
    Step,
    find_incompatibility,
)
from tests.support.agents.tagged import SLUGS, manifest


def test_a_change_goes_through_all_steps_to_the_active_model() -> None:
    change = ModelChange()
    for step in (Step.LOADING, Step.TESTING, Step.SWITCHED, Step.ACTIVE):
        change.move(step, f"because {step}")
    assert [progress.step for progress in change.history] == [
        Step.OPENING,
        Step.LOADING,
        Step.TESTING,
        Step.SWITCHED,
        Step.ACTIVE,
    ]
    assert change.history[-1].is_final
    assert change.history[-1].reason == "because active"


@pytest.mark.parametrize(("step", "following"), list(itertools.product(Step, Step)))
def test_any_other_step_is_illegal_and_changes_nothing(step: Step, following: Step) -> None:
    change = ModelChange()
    change.history[0] = type(change.history[0])(step)
    if following in TRANSITIONS.get(step, frozenset()):
        assert change.move(following).step is following
        return
    with pytest.raises(IllegalStep):
        change.move(following)
    assert change.step is step


@pytest.mark.parametrize(
    ("steps", "final"),
    [
        ((), Step.FAILED),
        ((Step.LOADING,), Step.FAILED),
        ((Step.LOADING, Step.TESTING), Step.FAILED),
        ((Step.LOADING, Step.TESTING, Step.SWITCHED), Step.REVERTED),
    ],
)
def test_a_problem_takes_back_what_answers_already(steps: tuple[Step, ...], final: Step) -> None:
    change = ModelChange()
    for step in steps:
        change.move(step)
    ended = change.end("the golden cases failed")
    assert (ended.step, ended.reason) == (final, "the golden cases failed")
    with pytest.raises(IllegalStep):
        change.end("again")


def test_every_step_has_a_description_and_every_end_is_final() -> None:
    assert set(DESCRIPTIONS) == set(Step)
    assert set(Step) - set(TRANSITIONS) == FINAL


def test_a_model_with_other_findings_cannot_take_the_place() -> None:
    whole = manifest()
    points = dict.fromkeys(SLUGS[1:], 0.25)
    engine = whole.engines[0].model_dump() | {"operating_points": points}
    part = manifest(findings=SLUGS[1:], engines=[engine], version="0.0.2")
    assert find_incompatibility(whole, manifest(version="9.0.0")) == ""
    assert find_incompatibility(whole, part) == (
        f"toy 0.0.2 has other findings than toy 0.0.1: without {SLUGS[0]}"
    )
    assert find_incompatibility(part, whole).endswith(f"with {SLUGS[0]}")
