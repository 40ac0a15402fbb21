from __future__ import annotations

from itertools import product

import pytest

from edge_agent.core.lifecycle import TRANSITIONS, Component, Event, Lifecycle, Phase
from edge_agent.errors import NotReady

MODEL, ENGINE, AUDIT = Component


def serving() -> Lifecycle:
    lifecycle = Lifecycle()
    lifecycle.loaded()
    return lifecycle


def accepts(lifecycle: Lifecycle) -> bool:
    """Return whether a request that arrives now is accepted."""
    try:
        lifecycle.require_open()
    except NotReady:
        return False
    return True


def answers(lifecycle: Lifecycle) -> bool:
    """Return whether a request that was accepted is answered."""
    try:
        lifecycle.require_model()
    except NotReady:
        return False
    return True


def test_an_agent_starts_without_a_model_and_serves_when_it_is_loaded() -> None:
    lifecycle = Lifecycle()
    assert (lifecycle.phase, lifecycle.is_ready) == (Phase.STARTING, False)
    assert "loading" in lifecycle.reason
    assert not answers(lifecycle)
    lifecycle.loaded()
    assert (lifecycle.phase, lifecycle.is_ready) == (Phase.SERVING, True)
    assert (lifecycle.reason, lifecycle.error()) == ("", None)
    assert accepts(lifecycle)
    assert answers(lifecycle)


@pytest.mark.parametrize("component", Component)
def test_a_fault_makes_a_serving_agent_unhealthy_until_it_is_gone(component: Component) -> None:
    lifecycle = serving()
    lifecycle.fail(component, "It is broken.")
    assert (lifecycle.phase, lifecycle.reason) == (Phase.UNHEALTHY, "It is broken.")
    lifecycle.recover(component)
    assert (lifecycle.phase, lifecycle.reason) == (Phase.SERVING, "")


def test_all_faults_are_reasons_and_all_must_go() -> None:
    lifecycle = serving()
    lifecycle.fail(AUDIT, "No disk.")
    lifecycle.fail(ENGINE, "No engine.")
    lifecycle.fail(ENGINE, "Still no engine.")
    assert lifecycle.reason == "Still no engine. No disk."
    lifecycle.recover(ENGINE)
    assert (lifecycle.is_ready, lifecycle.reason) == (False, "No disk.")
    lifecycle.recover(AUDIT)
    assert lifecycle.is_ready


def test_a_model_that_fails_ends_the_start_and_another_component_does_not() -> None:
    lifecycle = Lifecycle()
    lifecycle.fail(AUDIT, "No disk.")
    assert lifecycle.is_starting
    assert "loading" in lifecycle.reason
    lifecycle.fail(MODEL, "It answers wrongly.")
    assert not lifecycle.is_starting
    assert lifecycle.reason == "It answers wrongly. No disk."
    lifecycle.recover(AUDIT)
    assert lifecycle.reason == "It answers wrongly."
    lifecycle.loaded()
    assert lifecycle.is_ready


def test_no_recovery_replaces_loading() -> None:
    lifecycle = Lifecycle()
    for component in Component:
        lifecycle.recover(component)
    assert lifecycle.is_starting


def test_a_fault_during_the_start_counts_when_the_model_is_loaded() -> None:
    lifecycle, seen = Lifecycle(), []
    lifecycle.fail(AUDIT, "No disk.")
    lifecycle.subscribe(lambda: seen.append(lifecycle.phase))
    lifecycle.loaded()
    assert lifecycle.reason == "No disk."
    assert seen == [Phase.STARTING, Phase.UNHEALTHY], "it was never reported as serving"


def test_a_new_model_replaces_an_engine_that_hangs() -> None:
    lifecycle = serving()
    lifecycle.fail(ENGINE, "It hangs.")
    lifecycle.loaded()
    assert lifecycle.is_ready


def test_requests_are_accepted_until_the_agent_drains() -> None:
    lifecycle = serving()
    lifecycle.fail(AUDIT, "No disk.")
    assert accepts(lifecycle), "the audit log refuses with a code of its own"
    lifecycle.drain()
    assert not accepts(lifecycle)
    with pytest.raises(NotReady, match="stopping") as caught:
        lifecycle.require_open()
    assert caught.value.retry_after_s


def test_what_was_accepted_is_answered_while_the_agent_drains_if_its_model_works() -> None:
    lifecycle = serving()
    lifecycle.drain()
    assert answers(lifecycle)
    lifecycle.fail(AUDIT, "No disk.")
    assert answers(lifecycle)
    lifecycle.fail(ENGINE, "It hangs.")
    with pytest.raises(NotReady, match="stopping"):
        lifecycle.require_model()


@pytest.mark.parametrize("component", [MODEL, ENGINE])
def test_no_request_is_answered_by_a_model_that_fails(component: Component) -> None:
    lifecycle = serving()
    lifecycle.fail(component, "It is broken.")
    with pytest.raises(NotReady, match="It is broken") as caught:
        lifecycle.require_model()
    assert "another agent" in caught.value.hint


def test_a_draining_agent_never_serves_again() -> None:
    lifecycle = Lifecycle()
    lifecycle.drain()
    for act in (lifecycle.loaded, lifecycle.drain, lambda: lifecycle.recover(MODEL)):
        act()
        assert (lifecycle.phase, lifecycle.reason) == (Phase.DRAINING, "The agent is stopping.")


def test_starting_and_draining_advise_when_to_try_again() -> None:
    lifecycle = Lifecycle()
    error = lifecycle.error()
    assert error is not None
    assert error.retry_after_s
    lifecycle.fail(MODEL, "It answers wrongly.")
    error = lifecycle.error()
    assert error is not None
    assert error.retry_after_s is None, "an operator must act first"


def test_subscribers_learn_of_changes_alone() -> None:
    lifecycle, seen = Lifecycle(), []
    lifecycle.subscribe(lambda: seen.append(lifecycle.reason))
    lifecycle.loaded()
    lifecycle.loaded()
    lifecycle.recover(AUDIT)
    lifecycle.fail(AUDIT, "No disk.")
    lifecycle.fail(AUDIT, "No disk.")
    lifecycle.fail(AUDIT, "Too slow.")
    assert seen[1:] == ["", "No disk.", "Too slow."]


def test_an_event_without_a_transition_changes_nothing() -> None:
    """Only a draining agent ignores events, and serving ends with a fault or a drain alone."""
    ignored = set(product(Phase, Event)) - TRANSITIONS.keys()
    assert ignored == {
        *((Phase.DRAINING, event) for event in Event),
        (Phase.STARTING, Event.LAST_FAULT_GONE),
        (Phase.SERVING, Event.LAST_FAULT_GONE),
    }
