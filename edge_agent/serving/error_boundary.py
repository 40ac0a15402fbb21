"""Every failure gets a code, also one that nobody foresaw."""

from __future__ import annotations

import logging

from edge_agent.errors import CallerError, HilumError, TryLater
from edge_agent.system.logging import describe_origin

_log = logging.getLogger(__name__)


def coded(error: Exception) -> HilumError:
    """The error itself; for one that nobody foresaw, a coded one that gives nothing away.

    What the operator must act on is logged.
    """
    if isinstance(error, HilumError):
        if not isinstance(error, CallerError | TryLater):
            _log.error("request failed", extra={"code": error.code, "what": error.message})
        return error
    # An unforeseen error's own words may quote the file: only its kind and place are logged.
    _log.error(
        "request failed unexpectedly",
        extra={"error": type(error).__name__, "at": describe_origin(error)},
    )
    return HilumError(
        "The agent failed in a way it did not foresee.",
        hint="See the agent's log. If the same file fails again, keep it for the maintainers.",
    )
