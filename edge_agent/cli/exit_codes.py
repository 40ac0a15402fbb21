"""The boundary of every command: a failure becomes a message and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Final, ParamSpec, TypeGuard

from edge_agent.cli.console import open_stderr, print_error, print_usage_error
from edge_agent.cli.input_files import UsageError
from edge_agent.errors import CallerError, ConfigInvalid, HilumError
from edge_agent.serving.error_boundary import as_hilum_error
from edge_agent.system.logging import configure_logging

if TYPE_CHECKING:
    from hilum.client import DetectError

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
"""A file was refused, the audit log is broken, or the machine failed."""
EXIT_USAGE: Final = 2
"""The command line or the settings are wrong."""

P = ParamSpec("P")


def _is_detect_error(error: Exception) -> TypeGuard[DetectError]:
    """Return whether another agent has answered with this error, without importing gRPC for it."""
    client = sys.modules.get("hilum.client")
    return client is not None and isinstance(error, client.DetectError)


def report_errors(command: Callable[P, int]) -> Callable[P, int]:
    """Print an error's message and return its exit status, instead of raising it.

    Args:
        command: a command that returns its exit status.

    Returns:
        The same command. It configures logging first, and never ends with a traceback.
    """

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        configure_logging()
        try:
            return command(*args, **kwargs)
        except UsageError as error:
            print_usage_error(open_stderr(), str(error))
            return EXIT_USAGE
        except Exception as error:  # noqa: BLE001  # the boundary: every failure gets a code
            if _is_detect_error(error):
                print_error(open_stderr(), error)
                return EXIT_FAILED
            problem = error if isinstance(error, HilumError) else as_hilum_error(error)
            print_error(open_stderr(), problem)
            wrong_usage = isinstance(problem, CallerError | ConfigInvalid)
            return EXIT_USAGE if wrong_usage else EXIT_FAILED

    return run
