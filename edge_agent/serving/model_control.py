"""The state of the served models, and what an operator can change about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge_agent.core.model_change import Progress


@dataclass(frozen=True, slots=True)
class ServedModelStatus:
    """A served model.

    Attributes:
        name, version, bundle_digest, engine, engine_reason: the bundle's and its engine's.
        previous_digest: the bundle that a revert activates; empty if there is none.
        change_step: the step of a change in progress; empty if there is none.
    """

    name: str
    version: str
    bundle_digest: str
    engine: str
    engine_reason: str
    previous_digest: str = ""
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
