"""The agent's life cycle: starting, serving, unhealthy, draining, as one state machine.

Pure: the caller reports what happens and gets the phase, the reason and the errors for callers.
The rules:

1. An agent starts without a model. It serves when a model is loaded and has passed its self-test.
2. A fault of any component makes a serving agent unhealthy. When the last fault is gone, it serves
   again.
3. A fault of another component than the model does not end the start; it counts when the model is
   loaded.
4. A draining agent never serves again. It accepts no request, and it answers those that it has
   accepted if its model and engine work.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from edge_agent.errors import NotReady

STARTING_RETRY_AFTER_S: Final = 2.0
"""Loading takes from 1 s with a cached engine selection to minutes without one."""
DRAINING_RETRY_AFTER_S: Final = 5.0
"""For a restart: the requests in flight are answered, and the next process loads its model."""
_LOADING: Final = "The agent is loading its model."
_STOPPING: Final = "The agent is stopping."


class Phase(StrEnum):
    """A phase of the agent's life."""

    STARTING = "starting"
    SERVING = "serving"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"


class Component(StrEnum):
    """A component whose fault keeps the agent from serving."""

    MODEL = "model"
    ENGINE = "engine"
    AUDIT = "audit"


class Event(StrEnum):
    """An event in the agent's life.

    `MODEL_FAULT` is apart from other faults because it also ends the start.
    """

    LOADED = "loaded"
    MODEL_FAULT = "model_fault"
    FAULT = "fault"
    LAST_FAULT_GONE = "last_fault_gone"
    DRAIN = "drain"


TRANSITIONS: Final = MappingProxyType(
    {
        (Phase.STARTING, Event.LOADED): Phase.SERVING,
        (Phase.STARTING, Event.MODEL_FAULT): Phase.UNHEALTHY,
        (Phase.STARTING, Event.FAULT): Phase.STARTING,
        (Phase.STARTING, Event.DRAIN): Phase.DRAINING,
        (Phase.SERVING, Event.LOADED): Phase.SERVING,
        (Phase.SERVING, Event.MODEL_FAULT): Phase.UNHEALTHY,
        (Phase.SERVING, Event.FAULT): Phase.UNHEALTHY,
        (Phase.SERVING, Event.DRAIN): Phase.DRAINING,
        (Phase.UNHEALTHY, Event.LOADED): Phase.SERVING,
        (Phase.UNHEALTHY, Event.MODEL_FAULT): Phase.UNHEALTHY,
        (Phase.UNHEALTHY, Event.FAULT): Phase.UNHEALTHY,
        (Phase.UNHEALTHY, Event.LAST_FAULT_GONE): Phase.SERVING,
        (Phase.UNHEALTHY, Event.DRAIN): Phase.DRAINING,
    }
)
"""All transitions. Any other pair of phase and event leaves the phase as it is."""

_INFERENCE: Final = frozenset({Component.MODEL, Component.ENGINE})
"""The components that answer a request once it is accepted."""


class Lifecycle:
    """The agent's phase and faults. Not thread-safe: it belongs to the event loop."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        # A model that is not loaded yet is kept as a fault, so that one rule covers all of them.
        self._faults: dict[Component, str] = {Component.MODEL: _LOADING}
        self._subscribers: list[Callable[[], None]] = []

    # --- events -----------------------------------------------------------------------------

    def loaded(self) -> None:
        """Record that a model is loaded and has passed its self-test.

        Faults of an earlier model and its engine are gone with that model.
        """
        before = self._state
        self._faults.pop(Component.MODEL, None)
        self._faults.pop(Component.ENGINE, None)
        self._move(Event.LOADED)
        if self._faults:
            self._move(Event.FAULT)
        self._notify(before)

    def fail(self, component: Component, reason: str) -> None:
        """Record that a component cannot work.

        Args:
            component: the component at fault; its earlier fault is replaced.
            reason: one or more sentences, for people.
        """
        before = self._state
        self._faults[component] = reason
        self._move(Event.MODEL_FAULT if component is Component.MODEL else Event.FAULT)
        self._notify(before)

    def recover(self, component: Component) -> None:
        """Record that a component works again; no effect if it has no fault.

        A model that is still to be loaded is reported with `loaded`.
        """
        if component not in self._faults or (
            component is Component.MODEL and self.phase is Phase.STARTING
        ):
            return
        before = self._state
        del self._faults[component]
        if not self._faults:
            self._move(Event.LAST_FAULT_GONE)
        self._notify(before)

    def drain(self) -> None:
        """Record that the agent stops: it accepts no more requests."""
        before = self._state
        self._move(Event.DRAIN)
        self._notify(before)

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever the phase or the reason has changed, and once now."""
        self._subscribers.append(callback)
        callback()

    # --- queries ----------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """True if a request that is sent now will be answered."""
        return self.phase is Phase.SERVING

    @property
    def is_starting(self) -> bool:
        """True until a model is loaded or cannot be."""
        return self.phase is Phase.STARTING

    @property
    def is_draining(self) -> bool:
        """True once the agent stops."""
        return self.phase is Phase.DRAINING

    @property
    def reason(self) -> str:
        """The reason why the agent is not ready, for people; empty if it is."""
        if self.phase is Phase.SERVING:
            return ""
        if self.phase is Phase.DRAINING:
            return _STOPPING
        if self.phase is Phase.STARTING:
            return self._faults[Component.MODEL]
        return " ".join(self._faults[part] for part in Component if part in self._faults)

    def error(self) -> NotReady | None:
        """Return the error for a request that is sent now; None if the agent is ready."""
        if self.is_ready:
            return None
        hint, retry_after_s = _ADVICE[self.phase]
        error = NotReady(self.reason, hint=hint)
        error.retry_after_s = retry_after_s
        return error

    def require_open(self) -> None:
        """Require that new requests are accepted; call it when a request arrives.

        Raises:
            NotReady: the agent is stopping.
        """
        if self.is_draining and (error := self.error()):
            raise error

    def require_model(self) -> None:
        """Require that an accepted request can be answered, also while the agent stops.

        Raises:
            NotReady: no model has passed its self-test, or its engine does not work.
        """
        if self._faults.keys() & _INFERENCE and (error := self.error()):
            raise error

    # --- rules ------------------------------------------------------------------------------

    @property
    def _state(self) -> tuple[Phase, str]:
        return self.phase, self.reason

    def _move(self, event: Event) -> None:
        self.phase = TRANSITIONS.get((self.phase, event), self.phase)

    def _notify(self, before: tuple[Phase, str]) -> None:
        if self._state != before:
            for callback in self._subscribers:
                callback()


_ADVICE: Final[MappingProxyType[Phase, tuple[str | None, float | None]]] = MappingProxyType(
    {
        Phase.STARTING: (None, STARTING_RETRY_AFTER_S),
        Phase.UNHEALTHY: ("Send the request to another agent; this one's log has the cause.", None),
        Phase.DRAINING: (
            "Send the request to another agent, or later.",
            DRAINING_RETRY_AFTER_S,
        ),
    }
)
"""The hint of each phase (None for the default one) and the seconds until a retry makes sense."""
