"""`hilum-edge audit verify`: check the audit log's hash chain."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from edge_agent.audit.verify import verify
from edge_agent.cli.exit_codes import EXIT_FAILED, EXIT_OK, report_errors
from edge_agent.cli.output import open_stdout
from edge_agent.cli.settings import settings_from_options
from edge_agent.errors import ConfigInvalid


@report_errors
def verify_command(*, config: Path | None, folder: Path | None, archived: bool) -> int:
    """Print whether the audit log is whole; return the exit status."""
    path = folder or settings_from_options(config).audit_dir
    try:
        verdict = verify(path, archived=archived)
    except FileNotFoundError:
        raise ConfigInvalid(
            f"There is no audit log in {path}.",
            hint="Name the folder that the agent writes to with --folder or in its settings.",
        ) from None
    except OSError as error:
        raise ConfigInvalid(
            f"The audit log {path} cannot be read: {error.strerror}.",
            hint="Run this as a user who may read it, such as the agent's own.",
        ) from None
    open_stdout().print(escape(verdict.describe()), soft_wrap=True)
    return EXIT_OK if verdict.is_intact else EXIT_FAILED
