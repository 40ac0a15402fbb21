"""What `hilum-edge`'s commands do. Each returns the process's exit status; none raises."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Final, ParamSpec

from rich.console import Console
from rich.progress import Progress

from edge_agent.app import models
from edge_agent.cli import output, remote
from edge_agent.cli.batch import FileOutcome, detect_files, overlay_png, read_limited
from edge_agent.cli.input_files import FileMark, UsageError, file_mark, find_files, overlay_paths
from edge_agent.cli.remote import open_client
from edge_agent.config import Settings, load_settings
from edge_agent.errors import CallerError, ConfigInvalid, HilumError, InvalidRequest
from edge_agent.serving.detection import validate_request
from edge_agent.serving.error_boundary import coded
from edge_agent.serving.grpc import converters
from edge_agent.serving.types import DetectionRequest
from edge_agent.system.logging import configure_logging
from hilum.client import DetectError, Tls

EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2

P = ParamSpec("P")


def plain_errors(command: Callable[P, int]) -> Callable[P, int]:
    """Say what is wrong in plain words and end with the fitting status; never a traceback."""

    @wraps(command)
    def told(*args: P.args, **kwargs: P.kwargs) -> int:
        configure_logging()
        try:
            return command(*args, **kwargs)
        except UsageError as error:
            output.print_misuse(standard_error(), str(error))
            return EXIT_USAGE
        except DetectError as error:
            output.print_error(standard_error(), error)
            return EXIT_REFUSED
        except Exception as error:  # noqa: BLE001  # the boundary: every failure gets a code
            problem = error if isinstance(error, HilumError) else coded(error)
            output.print_error(standard_error(), problem)
            wrong_usage = isinstance(problem, CallerError | ConfigInvalid)
            return EXIT_USAGE if wrong_usage else EXIT_REFUSED

    return told


@plain_errors
def serve(
    *, config: Path | None, port: int | None, http_port: int | None, bundle: Path | None
) -> int:
    """Answer over gRPC and HTTP until told to stop."""
    from edge_agent.app import agent  # noqa: PLC0415  # brings FastAPI along, which detect does without

    settings = settings_from(config, bundle, port=port, http_port=http_port)
    return asyncio.run(agent.serve(settings))


@plain_errors
def detect(
    files: list[str],
    *,
    as_json: bool,
    overlay: Path | None,
    bundle: Path | None,
    threshold: float | None,
    recursive: bool,
    config: Path | None,
    server: str | None = None,
    api_key_file: Path | None = None,
    tls: Tls | None = None,
) -> int:
    """Look at files without a server, or have an agent look at them."""
    validate_request(DetectionRequest("", b"", score_threshold=threshold))
    settings = settings_from(config, bundle)
    paths = find_files(files, recursive=recursive)
    several = not (len(files) == 1 and paths == [Path(files[0]).expanduser()])
    places = overlay_paths(overlay, paths, into_folder=several) if overlay else {}
    overlays = {path: (place, file_mark(path)) for path, place in places.items()}
    printer = _Printer(len(paths), as_json=as_json, several=several)
    if server is None:
        refused = asyncio.run(_detect(settings, paths, threshold, overlays, printer))
    else:
        with open_client(server, api_key_file, tls) as there:
            outcomes = remote.detect_files(there, paths, score_threshold=threshold)
            refused = _show_all(outcomes, settings, overlays, printer)
    return EXIT_REFUSED if refused else 0


@plain_errors
def model(*, bundle: Path | None, as_json: bool, config: Path | None) -> int:
    """Show what a bundle is."""
    facts = models.bundle_facts(settings_from(config, bundle))
    if as_json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    else:
        output.print_model(standard_output(), facts)
    return 0


Overlays = dict[Path, tuple[Path, FileMark | None]]
"""Where each file's overlay goes, and what the file was before it was looked at."""


class _Printer:
    """Outcomes as they come: tables or JSON to standard output, refusals to standard error.

    Where both are one terminal, all goes above the progress bar.
    """

    def __init__(self, files: int, *, as_json: bool, several: bool) -> None:
        self._as_json = as_json
        self._indent = None if several else 2
        self._err = standard_error()
        bar = files > 1 and self._err.is_terminal
        self._out = self._err if bar and sys.stdout.isatty() else standard_output()
        self.progress = Progress(console=self._err, transient=True, disable=not bar)

    def show(self, outcome: FileOutcome) -> None:
        if self._as_json:
            document = json.dumps(output.outcome_document(outcome), indent=self._indent)
            self._out.print(document, markup=False, soft_wrap=True)
        elif outcome.answer:
            response = converters.detect_response(outcome.answer)
            output.print_response(self._out, str(outcome.path), response)
        if outcome.error:
            output.print_error(self._err, outcome.error, file=outcome.path)


async def _detect(
    settings: Settings,
    paths: list[Path],
    threshold: float | None,
    overlays: Overlays,
    printer: _Printer,
) -> int:
    """Look at the files; returns how many were refused."""
    limits = settings.limits
    refused = 0
    async with models.open_pipeline(settings) as pipeline:
        with printer.progress as progress:
            bar = progress.add_task("Looking", total=len(paths))
            async for outcome in detect_files(
                pipeline,
                paths,
                score_threshold=threshold,
                max_bytes=limits.max_image_bytes,
                ahead=min(limits.queue_size, (settings.decode.workers or 1) + 1),
            ):
                done = await asyncio.to_thread(_with_overlay, outcome, overlays, settings)
                printer.show(done)
                refused += done.error is not None
                progress.advance(bar)
    return refused


def _show_all(
    outcomes: Iterable[FileOutcome],
    settings: Settings,
    overlays: Overlays,
    printer: _Printer,
) -> int:
    """Show what an agent elsewhere found; returns how many files were refused."""
    refused = 0
    for outcome in outcomes:
        done = _with_overlay(outcome, overlays, settings)
        printer.show(done)
        refused += done.error is not None
    return refused


def _with_overlay(outcome: FileOutcome, overlays: Overlays, settings: Settings) -> FileOutcome:
    """Write the file's overlay if one is wanted; a failure to do so is the file's failure."""
    if outcome.path not in overlays or not outcome.answer:
        return outcome
    target, mark = overlays[outcome.path]
    try:
        image = _read_again(outcome.path, mark, settings.limits.max_image_bytes)
        picture = overlay_png(image, outcome.answer.findings, models.image_limits(settings))
        target.write_bytes(picture)
    except OSError as error:
        message = f"The overlay {target} cannot be written: {error.strerror}."
        return FileOutcome(outcome.path, outcome.answer, CallerError(message))
    except Exception as error:  # noqa: BLE001  # the boundary: every failure gets a code
        return FileOutcome(outcome.path, outcome.answer, coded(error))
    return outcome


def _read_again(path: Path, mark: FileMark | None, max_bytes: int) -> bytes:
    """The file's bytes, if no other has taken its name: findings belong to the one looked at."""
    image = read_limited(path, max_bytes)
    if mark is None or file_mark(path) != mark:
        raise InvalidRequest(
            "The file has changed in the meantime: nothing is drawn on it.",
            hint="Look at it again when it is written.",
        )
    return image


def settings_from(
    config: Path | None,
    bundle: Path | None = None,
    *,
    port: int | None = None,
    http_port: int | None = None,
) -> Settings:
    """The settings from all sources; options given on the command line win."""
    overrides: dict[str, object] = {}
    if bundle:
        overrides["bundle"] = bundle
    if port is not None:
        overrides["grpc"] = {"port": port}
    if http_port is not None:
        overrides["http"] = {"port": http_port}
    return load_settings(config, overrides)


def standard_output() -> Console:
    """Where results go."""
    return Console(highlight=False, emoji=False)


def standard_error() -> Console:
    """Where all else that is said goes."""
    return Console(stderr=True, highlight=False, emoji=False)
