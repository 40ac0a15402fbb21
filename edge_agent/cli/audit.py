"""`hilum-edge audit`: check, show and export the audit log, also while the agent runs.

Imports neither the engines nor gRPC, so that the commands start in less than a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rich.markup import escape

from edge_agent.audit.export import ExportFailed, export
from edge_agent.audit.show import read_last_entries
from edge_agent.audit.verify import verify
from edge_agent.cli.console import open_stderr, open_stdout, print_usage_error
from edge_agent.cli.exit_codes import EXIT_FAILED, EXIT_OK, report_errors
from edge_agent.cli.settings import settings_from_options
from edge_agent.errors import ConfigInvalid

_DETAILS: Final = ("outcome", "actor", "role", "request", "bundle", "box", "digest")


@report_errors
def verify_command(
    *, config: Path | None, folder: Path | None, archived: bool, box: str | None
) -> int:
    """Print whether the audit log is whole; return the exit status.

    Args:
        config: the settings' file.
        folder: the log; None for the settings' own, which must be this box's.
        archived: the oldest entries were moved elsewhere.
        box: the identity of the box that must have written the log.
    """
    path, box_id = _find_log(config, folder)
    try:
        verdict = verify(path, archived=archived, box_id=box_id if box is None else box)
    except FileNotFoundError:
        raise _no_log(path) from None
    except OSError as error:
        raise _unreadable(path, error) from None
    open_stdout().print(escape(verdict.describe()), soft_wrap=True)
    return EXIT_OK if verdict.is_intact else EXIT_FAILED


@report_errors
def show_command(*, config: Path | None, folder: Path | None, last: int, as_json: bool) -> int:
    """Print the last entries; return the exit status.

    Args:
        config: the settings' file.
        folder: the log; None for the settings' own.
        last: the number of entries.
        as_json: print the entries as they are, one JSON document a line.
    """
    path, _ = _find_log(config, folder)
    try:
        lines = read_last_entries(path, last)
    except FileNotFoundError:
        raise _no_log(path) from None
    except OSError as error:
        raise _unreadable(path, error) from None
    console = open_stdout()
    if as_json:
        for line in lines:
            console.print(line.text, markup=False, soft_wrap=True)
        return EXIT_OK
    for line in lines:
        console.print(_summarise(line.fields) or line.text, markup=False, soft_wrap=True)
    return EXIT_OK


def _summarise(fields: dict[str, object]) -> str:
    """Return an entry's fields in one line, those that are empty left out."""
    if not fields:
        return ""
    number, time = fields.get("seq"), str(fields.get("utc"))[:19]
    pairs = (f"{name}={fields[name]}" for name in _DETAILS if fields.get(name))
    count = "" if fields.get("count") == 1 else f" count={fields.get('count')}"
    return f"{number:>8} {time}Z {fields.get('action')} {' '.join(pairs)}{count}"


@report_errors
def export_command(*, config: Path | None, folder: Path | None, target: Path) -> int:
    """Write the entries since the last export to a new file; return the exit status.

    Args:
        config: the settings' file.
        folder: the log; None for the settings' own.
        target: the folder to write to.
    """
    path, _ = _find_log(config, folder)
    try:
        result = export(path, target)
    except ExportFailed as error:
        print_usage_error(open_stderr(), f"Nothing was exported: {error}.")
        return EXIT_FAILED
    except FileNotFoundError:
        raise _no_log(path) from None
    except OSError as error:
        if _is_locked(error):
            raise _unreadable(path, error) from None
        raise ConfigInvalid(
            f"The audit log {path} cannot be exported to {target}: {error.strerror or error}.",
            hint="Name a folder with room, as a user who may read the log, such as the agent's.",
        ) from None
    if result.file is None:
        open_stdout().print("Nothing new since the last export.")
    else:
        entries = f"entries {result.first} to {result.head.count - 1}, head {result.head.hash}"
        open_stdout().print(escape(f"Wrote {result.file}: {entries}."), soft_wrap=True)
    return EXIT_OK


def _find_log(config: Path | None, folder: Path | None) -> tuple[Path, str]:
    """Return the log's folder and, if it is this box's own, the box's identity."""
    if folder is not None:
        return folder, ""
    settings = settings_from_options(config)
    try:
        box_id = (settings.state_dir / "box-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        box_id = ""
    return settings.audit_dir, box_id


def _no_log(path: Path) -> ConfigInvalid:
    return ConfigInvalid(
        f"There is no audit log in {path}.",
        hint="Name the folder that the agent writes to with --folder or in its settings.",
    )


def _unreadable(path: Path, error: OSError) -> ConfigInvalid:
    if _is_locked(error):
        return ConfigInvalid(
            f"The audit log {path} is in use by the agent alone, because the disk was full when it "
            f"started.",
            hint="Make room on the disk; within a minute the agent lets others read the log.",
        )
    return ConfigInvalid(
        f"The audit log {path} cannot be read: {error.strerror or error}.",
        hint="Run this as a user who may read it, such as the agent's own.",
    )


def _is_locked(error: OSError) -> bool:
    return "locked" in (error.strerror or "")
