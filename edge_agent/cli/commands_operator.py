"""What `hilum-edge`'s commands for the box's operator do: keys, the audit log, measuring."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from edge_agent.app.security import utc_now
from edge_agent.audit.verify import verify
from edge_agent.cli import benchmark
from edge_agent.cli.commands import (
    EXIT_REFUSED,
    plain_errors,
    settings_from,
    standard_error,
    standard_output,
)
from edge_agent.cli.input_files import UsageError
from edge_agent.core.authorization import Role
from edge_agent.errors import ConfigInvalid
from edge_agent.security.api_keys import add_key, load_keys, remove_key
from edge_agent.system.logging import configure_logging


@plain_errors
def add(*, config: Path | None, file: Path | None, role: str, label: str, days: int | None) -> int:
    """Make an API key and show it once."""
    lifetime = None if days is None else timedelta(days=days)
    path = _key_file(config, file)
    made = add_key(path, role=Role(role), now=utc_now(), label=label, lifetime=lifetime)
    # To standard output alone, so that it can be piped into a file or a vault.
    sys.stdout.write(made.token + "\n")
    standard_error().print(
        f"Key {made.record.id} ({made.record.role}) is in {escape(str(path))}. It is shown this "
        "once and kept nowhere.",
        soft_wrap=True,
    )
    return 0


@plain_errors
def show(*, config: Path | None, file: Path | None) -> int:
    """List the API keys; never the keys themselves."""
    table = Table(box=None)
    for heading in ("id", "role", "label", "made", "good until"):
        table.add_column(heading)
    for key in load_keys(_key_file(config, file)).values():
        until = key.expires.isoformat(timespec="minutes") if key.expires else "removed"
        made = key.created.isoformat(timespec="minutes")
        table.add_row(key.id, key.role, escape(key.label), made, until)
    standard_output().print(table)
    return 0


@plain_errors
def remove(*, config: Path | None, file: Path | None, key_id: str) -> int:
    """Take an API key out; agents stop knowing it at once."""
    removed = remove_key(_key_file(config, file), key_id)
    standard_output().print(f"Removed the key {removed.id} ({removed.role}).")
    return 0


@plain_errors
def verify_audit(*, config: Path | None, folder: Path | None, archived: bool) -> int:
    """Say whether the audit log is whole."""
    where = folder or settings_from(config).audit_dir
    try:
        verdict = verify(where, archived=archived)
    except FileNotFoundError:
        raise ConfigInvalid(
            f"There is no audit log in {where}.",
            hint="Name the folder that the agent writes to with --folder or in its settings.",
        ) from None
    except OSError as error:
        raise ConfigInvalid(
            f"The audit log {where} cannot be read: {error.strerror}.",
            hint="Run this as a user who may read it, such as the agent's own.",
        ) from None
    standard_output().print(escape(verdict.describe()), soft_wrap=True)
    return 0 if verdict.ok else EXIT_REFUSED


@plain_errors
def bench(
    *,
    config: Path | None,
    bundle: Path | None,
    image: Path | None,
    as_json: bool,
    output: Path | None,
) -> int:
    """Measure this box."""
    settings = settings_from(config, bundle)
    if output is not None and not output.parent.is_dir():
        raise UsageError(f"--output {output}: there is no folder {output.parent}.")
    configure_logging("WARNING")  # The agent that is measured need not say that it serves.
    standard_error().print("Measuring; this takes a minute or two.")
    measured = asyncio.run(benchmark.measure(settings, image))
    as_json = as_json or (output is not None and output.suffix == ".json")
    text = json.dumps(measured.as_json(), indent=2) + "\n" if as_json else measured.as_markdown()
    if output is None:
        sys.stdout.write(text)
        return 0
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigInvalid(f"The report {output} cannot be written: {error.strerror}.") from None
    return 0


def _key_file(config: Path | None, file: Path | None) -> Path:
    path = file or settings_from(config).access.keys
    if path is None:
        raise ConfigInvalid(
            "Which key file?", hint="Give --file, or set access.keys in the settings."
        )
    return path
