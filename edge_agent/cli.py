"""`hilum-edge`: serve, detect, model."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress

from edge_agent import app as agent
from edge_agent import report
from edge_agent.config import Settings, load_settings
from edge_agent.errors import CallerError, ConfigInvalid, HilumError
from edge_agent.inputs import Misused, find_files, overlay_paths
from edge_agent.log import configure_logging
from edge_agent.serving import wire
from edge_agent.serving.answer import StudyRequest
from edge_agent.serving.failures import coded
from edge_agent.serving.local import FileOutcome, detect_files, overlay_png, read_limited
from edge_agent.serving.pipeline import check

EXIT_REFUSED = 1
EXIT_USAGE = 2

app = typer.Typer(
    name="hilum-edge",
    help="Find and box abnormalities on frontal chest radiographs. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings in a TOML file.")
]
BundleOption = Annotated[
    Path | None,
    typer.Option("--bundle", metavar="B", help="The model to use instead of the starter."),
]


def main() -> None:
    """Entry point of the installed command."""
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hilum-edge {distribution_version('hilum')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    # What libraries print themselves is no line of our log; gRPC reads this when it starts.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    configure_logging()


@app.command(
    epilog="Example: [bold]hilum-edge serve --port 50052[/bold]. Settings come from the file, then "
    "from the environment (HILUM_EDGE__GRPC__PORT=50052), then from the options; the later wins."
)
def serve(
    config: ConfigOption = None,
    port: Annotated[
        int | None,
        typer.Option(metavar="N", help="Port for gRPC; 0 takes a free one. [default: 50051]"),
    ] = None,
    bundle: BundleOption = None,
) -> None:
    """Answer over gRPC on this machine until SIGTERM or Ctrl-C.

    The health service says SERVING once the model is loaded and has run. When told to stop, the
    agent finishes what is in flight; told twice, it ends at once.
    """
    with _plain_errors():
        settings = _settings(config, bundle, port=port)
        status = asyncio.run(agent.serve(settings))
    if status:
        os._exit(status)  # A thread hangs in work that will not end; waiting for it is in vain.


@app.command(
    epilog="Examples: [bold]hilum-edge detect chest.dcm --overlay chest.png[/bold], "
    "[bold]hilum-edge detect --json 'studies/*.dcm' > findings.jsonl[/bold]. "
    "Exit status: 0 all files answered, 1 some file refused, 2 wrong usage or settings."
)
def detect(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...", help="Files, folders or quoted patterns such as '*.dcm'."
        ),
    ],
    *,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="A JSON document; one per line if several files are meant."),
    ] = False,
    overlay: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT",
            help="Draw the findings: OUT.png, or a folder if several files are meant.",
        ),
    ] = None,
    bundle: BundleOption = None,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="T", help="Score threshold for all findings, above 0 and up to 1."),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Look into folders within folders too.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Look at radiographs (DICOM, JPEG, PNG, TIFF) without a server.

    A file that is refused is reported with a code and a hint; the others go on.
    """
    with _plain_errors():
        check(StudyRequest("", b"", score_threshold=threshold))
        settings = _settings(config, bundle)
        paths = find_files(files, recursive=recursive)
        several = not (len(files) == 1 and paths == [Path(files[0]).expanduser()])
        overlays = overlay_paths(overlay, paths, into_folder=several) if overlay else {}
        printer = _Printer(as_json=as_json, several=several)
        refused = asyncio.run(_detect(settings, paths, threshold, overlays, printer))
    if refused:
        raise typer.Exit(EXIT_REFUSED)


@app.command(epilog="Example: [bold]hilum-edge model --bundle chest-2.1.0.bundle[/bold]")
def model(
    bundle: BundleOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON document.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show what a bundle is: version, digest, engines, operating points, where it came from."""
    with _plain_errors():
        facts = agent.bundle_facts(_settings(config, bundle))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        report.print_model(_stdout(), facts)


class _Printer:
    """Outcomes as they come: tables or JSON to standard output, refusals to standard error."""

    def __init__(self, *, as_json: bool, several: bool) -> None:
        self._as_json = as_json
        self._indent = None if several else 2
        self._out = _stdout()
        self._err = _stderr()

    def show(self, outcome: FileOutcome) -> None:
        if self._as_json:
            document = report.outcome_document(outcome)
            self._out.file.write(json.dumps(document, indent=self._indent) + "\n")
        elif outcome.answer:
            response = wire.detect_response(outcome.answer)
            report.print_response(self._out, str(outcome.path), response)
        if outcome.error:
            report.print_error(self._err, outcome.error, file=outcome.path)


async def _detect(
    settings: Settings,
    paths: list[Path],
    threshold: float | None,
    overlays: dict[Path, Path],
    printer: _Printer,
) -> int:
    """Look at the files; returns how many were refused."""
    limits = settings.limits
    refused = 0
    progress = Progress(
        console=_stderr(),
        transient=True,
        disable=len(paths) == 1 or not sys.stderr.isatty(),
        # Results go above the bar where both are one terminal, and to the file where not.
        redirect_stdout=sys.stdout.isatty(),
    )
    async with agent.open_pipeline(settings) as pipeline:
        with progress:
            bar = progress.add_task("Looking", total=len(paths))
            async for outcome in detect_files(
                pipeline,
                paths,
                score_threshold=threshold,
                max_bytes=limits.max_image_bytes,
                ahead=min(limits.queue_size, limits.decode_threads + 1),
            ):
                done = await asyncio.to_thread(_with_overlay, outcome, overlays, settings)
                printer.show(done)
                refused += done.error is not None
                progress.advance(bar)
    return refused


def _with_overlay(
    outcome: FileOutcome, overlays: dict[Path, Path], settings: Settings
) -> FileOutcome:
    """Write the file's overlay if one is wanted; a failure to do so is the file's failure."""
    target = overlays.get(outcome.path)
    if not (outcome.answer and target):
        return outcome
    try:
        image = read_limited(outcome.path, settings.limits.max_image_bytes)
        picture = overlay_png(image, outcome.answer.findings, agent.image_limits(settings))
        target.write_bytes(picture)
    except OSError as error:
        problem: HilumError = CallerError(
            f"The overlay {target} cannot be written: {error.strerror}."
        )
    except Exception as error:  # noqa: BLE001  # the boundary: every failure gets a code
        problem = coded(error)
    else:
        return outcome
    return FileOutcome(outcome.path, answer=outcome.answer, error=problem)


def _settings(config: Path | None, bundle: Path | None, *, port: int | None = None) -> Settings:
    overrides: dict[str, object] = {}
    if bundle:
        overrides["bundle"] = bundle
    if port is not None:
        overrides["grpc"] = {"port": port}
    return load_settings(config, overrides)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Say what is wrong in plain words and end with the fitting status; never a traceback."""
    try:
        yield
    except Misused as error:
        _stderr().print(f"[bold red]error[/bold red] {error}", soft_wrap=True, highlight=False)
        raise typer.Exit(EXIT_USAGE) from None
    except HilumError as error:
        _end(error)
    except typer.Exit:
        raise
    except Exception as error:  # noqa: BLE001  # the boundary: every failure gets a code
        _end(coded(error))


def _end(error: HilumError) -> NoReturn:
    report.print_error(_stderr(), error)
    wrong_usage = isinstance(error, CallerError | ConfigInvalid)
    raise typer.Exit(EXIT_USAGE if wrong_usage else EXIT_REFUSED) from None


def _stdout() -> Console:
    return Console(highlight=False)


def _stderr() -> Console:
    return Console(stderr=True, highlight=False)


if __name__ == "__main__":
    main()
