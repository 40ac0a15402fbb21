"""`hilum-edge detect`: find abnormalities in files, on this machine or through an agent."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from edge_agent.app import models
from edge_agent.cli import console, output, remote
from edge_agent.cli.batch import FileOutcome, detect_files, read_limited, render_overlay
from edge_agent.cli.exit_codes import EXIT_FAILED, EXIT_OK, report_errors
from edge_agent.cli.input_files import (
    FileIdentity,
    choose_overlay_paths,
    file_identity,
    find_files,
)
from edge_agent.cli.settings import settings_from_options
from edge_agent.config import Settings
from edge_agent.errors import CallerError, InvalidRequest
from edge_agent.serving.detection import validate_request
from edge_agent.serving.error_boundary import as_hilum_error
from edge_agent.serving.types import DetectionRequest


@report_errors
def detect_command(
    files: list[str],
    *,
    as_json: bool,
    overlay: Path | None,
    bundle: Path | None,
    threshold: float | None,
    recursive: bool,
    config: Path | None,
    server: remote.RemoteAgent | None,
) -> int:
    """Find abnormalities in files and print them; return the exit status.

    Args:
        files: files, folders and patterns.
        as_json: print JSON documents instead of tables.
        overlay: a PNG file, or a folder, for the radiographs with their findings drawn in.
        bundle: the bundle to use instead of the settings' own.
        threshold: the score threshold for all findings, instead of the operating points.
        recursive: include the files in subfolders.
        config: a settings file.
        server: the agent that the files are sent to; None to run the model on this machine.
    """
    validate_request(DetectionRequest("", b"", score_threshold=threshold))
    settings = settings_from_options(config, bundle)
    paths = find_files(files, recursive=recursive)
    is_one_file = len(files) == 1 and paths == [Path(files[0]).expanduser()]
    overlays = _plan_overlays(overlay, paths, into_folder=not is_one_file)
    printer = _Printer(len(paths), as_json=as_json, one_document=is_one_file)
    if server is None:
        failures = asyncio.run(_detect_locally(settings, paths, threshold, overlays, printer))
    else:
        with remote.open_client(server) as client:
            outcomes = remote.detect_files(client, paths, score_threshold=threshold)
            failures = _print_all(outcomes, settings, overlays, printer)
    return EXIT_FAILED if failures else EXIT_OK


@dataclass(frozen=True, slots=True)
class _PlannedOverlay:
    """A file's overlay: where it is written, and the file's identity before detection."""

    target: Path
    identity: FileIdentity | None


Overlays = Mapping[Path, _PlannedOverlay]


def _plan_overlays(target: Path | None, paths: list[Path], *, into_folder: bool) -> Overlays:
    if target is None:
        return {}
    targets = choose_overlay_paths(target, paths, into_folder=into_folder)
    return {file: _PlannedOverlay(path, file_identity(file)) for file, path in targets.items()}


class _Printer:
    """Prints outcomes as they come: findings to standard output, failures to standard error.

    Where both are the same terminal, everything is printed above the progress bar.
    """

    def __init__(self, files: int, *, as_json: bool, one_document: bool) -> None:
        self._as_json = as_json
        self._indent = 2 if one_document else None
        self._err = console.open_stderr()
        has_bar = files > 1 and self._err.is_terminal
        self._out = self._err if has_bar and sys.stdout.isatty() else console.open_stdout()
        self.progress = Progress(console=self._err, transient=True, disable=not has_bar)

    def print(self, outcome: FileOutcome) -> None:
        if self._as_json:
            document = json.dumps(output.outcome_document(outcome), indent=self._indent)
            self._out.print(document, markup=False, soft_wrap=True)
        elif outcome.result:
            output.print_result(self._out, outcome.path, outcome.result)
        if outcome.error:
            console.print_error(self._err, outcome.error, file=outcome.path)


async def _detect_locally(
    settings: Settings,
    paths: list[Path],
    threshold: float | None,
    overlays: Overlays,
    printer: _Printer,
) -> int:
    """Run the model on this machine; return the number of files that failed."""
    limits = settings.limits
    failures = 0
    async with models.open_detection_service(settings) as service:
        with printer.progress as progress:
            bar = progress.add_task("Detecting", total=len(paths))
            async for outcome in detect_files(
                service,
                paths,
                score_threshold=threshold,
                max_bytes=limits.max_image_bytes,
                max_running=min(limits.queue_size, (settings.decode.workers or 1) + 1),
            ):
                complete = await asyncio.to_thread(_write_overlay, outcome, overlays, settings)
                printer.print(complete)
                failures += complete.error is not None
                progress.advance(bar)
    return failures


def _print_all(
    outcomes: Iterable[FileOutcome],
    settings: Settings,
    overlays: Overlays,
    printer: _Printer,
) -> int:
    """Print what another agent found; return the number of files that failed."""
    failures = 0
    for outcome in outcomes:
        complete = _write_overlay(outcome, overlays, settings)
        printer.print(complete)
        failures += complete.error is not None
    return failures


def _write_overlay(outcome: FileOutcome, overlays: Overlays, settings: Settings) -> FileOutcome:
    """Write a file's overlay if one is planned; a failure to do so becomes the file's failure."""
    if outcome.path not in overlays or not outcome.result:
        return outcome
    planned = overlays[outcome.path]
    try:
        image = _read_unchanged(outcome.path, planned.identity, settings.limits.max_image_bytes)
        overlay = render_overlay(image, outcome.result.findings, models.image_limits(settings))
        planned.target.write_bytes(overlay)
    except OSError as error:
        message = f"The overlay {planned.target} cannot be written: {error.strerror}."
        return FileOutcome(outcome.path, outcome.result, CallerError(message))
    except Exception as error:  # noqa: BLE001  # the boundary: every failure gets a code
        return FileOutcome(outcome.path, outcome.result, as_hilum_error(error))
    return outcome


def _read_unchanged(path: Path, identity: FileIdentity | None, max_bytes: int) -> bytes:
    """Read a file again, if it has not been replaced since its findings were computed."""
    image = read_limited(path, max_bytes)
    if identity is None or file_identity(path) != identity:
        raise InvalidRequest(
            "The file has changed in the meantime: nothing is drawn on it.",
            hint="Run the command again when the file is complete.",
        )
    return image
