"""A change of the model that answers, as one state machine: activation, revert, and their steps.

Pure. The rules:

1. A change goes through the steps in their order, and ends as `ACTIVE`, `FAILED` or `REVERTED`.
2. Until `SWITCHED` the old model answers, and any problem ends the change as `FAILED`.
3. From `SWITCHED` on the new model answers. A problem then ends the change as `REVERTED`: the old
   model, which is still loaded, answers again.
4. The new model is recorded as active only when it has reproduced the golden cases while it served,
   so that a crash before that starts the old one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from hilum.manifest import Manifest


class Step(StrEnum):
    """A step of a change."""

    OPENING = "opening"
    LOADING = "loading"
    TESTING = "testing"
    SWITCHED = "switched"
    ACTIVE = "active"
    FAILED = "failed"
    REVERTED = "reverted"


TRANSITIONS: Final = MappingProxyType(
    {
        Step.OPENING: frozenset({Step.LOADING, Step.ACTIVE, Step.FAILED}),
        Step.LOADING: frozenset({Step.TESTING, Step.FAILED}),
        Step.TESTING: frozenset({Step.SWITCHED, Step.FAILED}),
        Step.SWITCHED: frozenset({Step.ACTIVE, Step.REVERTED}),
    }
)
"""All transitions; `OPENING` is followed by `ACTIVE` where the model answers already."""

DESCRIPTIONS: Final = MappingProxyType(
    {
        Step.OPENING: "reading the bundle and checking its digests",
        Step.LOADING: "choosing and opening an engine",
        Step.TESTING: "running the golden cases",
        Step.SWITCHED: "answering requests; running the golden cases again",
        Step.ACTIVE: "active",
        Step.FAILED: "not activated",
        Step.REVERTED: "taken back",
    }
)
"""What each step means, for people."""

FINAL: Final = frozenset({Step.ACTIVE, Step.FAILED, Step.REVERTED})


class IllegalStep(Exception):
    """A step that cannot follow the present one. Nothing has changed."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A step that a change has reached; `reason` says why it failed, or what was chosen."""

    step: Step
    reason: str = ""

    @property
    def is_final(self) -> bool:
        """Return True if the change has ended."""
        return self.step in FINAL


@dataclass(slots=True)
class ModelChange:
    """One change. `history` has every step that was reached, in order."""

    history: list[Progress] = field(default_factory=lambda: [Progress(Step.OPENING)])

    @property
    def step(self) -> Step:
        """Return the present step."""
        return self.history[-1].step

    def move(self, step: Step, reason: str = "") -> Progress:
        """Go to the next step.

        Raises:
            IllegalStep: it cannot follow the present one.
        """
        if step not in TRANSITIONS.get(self.step, frozenset()):
            raise IllegalStep(f"{step} cannot follow {self.step}")
        self.history.append(Progress(step, reason))
        return self.history[-1]

    def end(self, problem: str) -> Progress:
        """End the change because of a problem: as `REVERTED` if the new model answers already."""
        return self.move(Step.REVERTED if self.step is Step.SWITCHED else Step.FAILED, problem)


def find_incompatibility(active: Manifest, new: Manifest) -> str:
    """Return why a model cannot take another's place while the agent serves; empty if it can.

    Another set of findings would change what "nothing found" means for the clinics between two
    images, so it needs a restart with the new bundle in the settings, which people decide about.
    """
    if active.findings == new.findings:
        return ""
    missing = [slug for slug in active.findings if slug not in new.findings]
    extra = [slug for slug in new.findings if slug not in active.findings]
    changes = [f"without {slug}" for slug in missing] + [f"with {slug}" for slug in extra]
    return (
        f"{new.name} {new.version} has other findings than {active.name} {active.version}: "
        f"{', '.join(changes)}"
    )
