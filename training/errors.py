"""What can go wrong while a model is made."""

from __future__ import annotations

from edge_agent.errors import OperatorError


class TrainingError(OperatorError):
    """A command of `hilum-train` cannot go on; the message names the file or setting to mend."""


class Diverged(TrainingError):
    """The loss is no number any more; with other settings it may stay one."""
