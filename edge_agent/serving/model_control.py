"""The state of the served models, and what an operator can change about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge_agent.core.agreement import AgreementCounts
from edge_agent.core.model_change import Progress


@dataclass(frozen=True, slots=True)
class ShadowStatus:
    """A shadow, and how its findings agreed with the served model's since it began.

    `skipped` images came while it was busy, over its CPU budget or without time to decode them
    again; `failed` ones were not answered by the candidate.
    """

    name: str
    version: str
    bundle_digest: str
    skipped: int
    failed: int
    agreement: AgreementCounts


@dataclass(frozen=True, slots=True)
class ServedModelStatus:
    """A served model.

    Attributes:
        name, version, bundle_digest, engine, engine_reason: the bundle's and its engine's.
        previous_digest: the bundle that a revert activates; empty if there is none.
        shadow: the model that runs beside it; None if there is none.
        change_step: the step of a change in progress; empty if there is none.
    """

    name: str
    version: str
    bundle_digest: str
    engine: str
    engine_reason: str
    previous_digest: str = ""
    shadow: ShadowStatus | None = None
    change_step: str = ""


class ModelController(Protocol):
    """Changes the served models; implemented by `app.model_manager.ModelManager`."""

    async def list_models(self) -> Sequence[ServedModelStatus]:
        """Return the state of each served model, the default first."""
        ...

    async def activate(
        self, path: Path, name: str = "", on_progress: Callable[[Progress], None] = ...
    ) -> Progress:
        """Answer with another bundle from now on; returns the final step."""
        ...

    async def revert(
        self, name: str = "", on_progress: Callable[[Progress], None] = ...
    ) -> Progress:
        """Answer with the bundle that was active before; returns the final step."""
        ...

    async def set_shadow(self, path: Path | None, name: str = "") -> ServedModelStatus:
        """Run another bundle beside a served model; None ends the shadow."""
        ...
