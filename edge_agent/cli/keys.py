"""`hilum-edge keys`: add, list and remove API keys."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from edge_agent.app.security import utc_now
from edge_agent.cli.console import open_stderr, open_stdout
from edge_agent.cli.exit_codes import EXIT_OK, report_errors
from edge_agent.cli.settings import settings_from_options
from edge_agent.core.authorization import Role
from edge_agent.errors import ConfigInvalid
from edge_agent.security.api_keys import add_key, load_keys, remove_key


@report_errors
def add_command(
    *, config: Path | None, file: Path | None, role: str, label: str, days: int | None
) -> int:
    """Create an API key and write it to standard output; return the exit status."""
    lifetime = None if days is None else timedelta(days=days)
    path = _key_file(config, file)
    issued = add_key(path, role=Role(role), now=utc_now(), label=label, lifetime=lifetime)
    # The key alone goes to standard output, so that it can be piped into a file or a vault.
    sys.stdout.write(issued.token + "\n")
    open_stderr().print(
        f"Key {issued.record.id} ({issued.record.role}) is in {escape(str(path))}. It is shown "
        "this once and stored nowhere.",
        soft_wrap=True,
    )
    return EXIT_OK


@report_errors
def list_command(*, config: Path | None, file: Path | None) -> int:
    """List the API keys' records, never the keys themselves; return the exit status."""
    table = Table(box=None)
    for heading in ("id", "role", "label", "created", "valid until"):
        table.add_column(heading)
    for record in load_keys(_key_file(config, file)).values():
        until = record.expires.isoformat(timespec="minutes") if record.expires else "removed"
        created = record.created.isoformat(timespec="minutes")
        table.add_row(record.id, record.role, escape(record.label), created, until)
    open_stdout().print(table)
    return EXIT_OK


@report_errors
def remove_command(*, config: Path | None, file: Path | None, key_id: str) -> int:
    """Remove an API key, which agents then refuse at once; return the exit status."""
    removed = remove_key(_key_file(config, file), key_id)
    open_stdout().print(f"Removed the key {removed.id} ({removed.role}).")
    return EXIT_OK


def _key_file(config: Path | None, file: Path | None) -> Path:
    path = file or settings_from_options(config).access.keys
    if path is None:
        raise ConfigInvalid(
            "No key file is named.", hint="Give --file, or set access.keys in the settings."
        )
    return path
