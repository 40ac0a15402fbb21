"""Gives every failure an error code, including those that no code foresees."""

from __future__ import annotations

import logging

from edge_agent.errors import CallerError, HilumError, TryLater
from edge_agent.system.logging import describe_origin

_log = logging.getLogger(__name__)


def as_hilum_error(error: Exception) -> HilumError:
    """Return the error itself, or a `HilumError` without any details for an unforeseen one.

    Failures that the operator must act on are logged.
    """
    if isinstance(error, HilumError):
        if not isinstance(error, CallerError | TryLater):
            _log.error("request failed", extra={"code": error.code, "reason": error.message})
        return error
    # The text of an unforeseen error may quote the file: only its type and place are logged.
    _log.error(
        "request failed unexpectedly",
        extra={"error": type(error).__name__, "at": describe_origin(error)},
    )
    return HilumError(
        "The agent failed unexpectedly.",
        hint="See the agent's log. If the same file fails again, keep it for the maintainers.",
    )
