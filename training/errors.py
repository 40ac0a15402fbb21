"""Errors of training."""

from __future__ import annotations

from edge_agent.errors import OperatorError


class TrainingError(OperatorError):
    """A command of `hilum-train` cannot continue; the message names the file or setting to fix."""


class Diverged(TrainingError):
    """The loss is not finite; other settings may keep it finite."""
