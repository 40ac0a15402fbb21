"""`hilum-edge`: what can be asked for on the command line. What is done then is in `commands`."""

from __future__ import annotations

import os
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Annotated

import typer

# `edge_agent.commands` brings pydicom, OpenCV and OpenVINO along, which take a second to import:
# only the commands that need it wait for it, `--help` does not.

app = typer.Typer(
    name="hilum-edge",
    help="Find and box abnormalities on frontal chest radiographs. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["--help", "-h"]},
)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings in a TOML file.")
]
BundleOption = Annotated[
    Path | None,
    typer.Option("--bundle", metavar="FILE", help="The model to use instead of the starter."),
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
    # What gRPC prints itself is no line of our log; it reads this when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


@app.command()
def serve(
    config: ConfigOption = None,
    port: Annotated[
        int | None,
        typer.Option(metavar="N", help="Port for gRPC instead of 50051; 0 takes a free one."),
    ] = None,
    http_port: Annotated[
        int | None,
        typer.Option(metavar="N", help="Port for HTTP instead of 8080; 0 takes a free one."),
    ] = None,
    bundle: BundleOption = None,
) -> None:
    """Answer over gRPC and HTTP, and show the page, until SIGTERM or Ctrl-C.

    The health service says SERVING once the model is loaded and has run. Told to stop, the agent
    finishes what is in flight; told twice, it ends at once. On SIGHUP it runs the bundle's golden
    cases again.

    Settings come from the file, then from the environment, then from the options; the later wins.

    For example:

        hilum-edge serve
        hilum-edge serve --config /etc/hilum/edge.toml --port 50052
        HILUM_EDGE__LIMITS__QUEUE_SIZE=16 hilum-edge serve
    """
    from edge_agent import commands  # noqa: PLC0415  # see above

    status = commands.serve(config=config, port=port, http_port=http_port, bundle=bundle)
    raise typer.Exit(status)


@app.command()
def detect(
    files: Annotated[list[str], typer.Argument(metavar="FILE...")],
    *,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="A JSON document; one per line if several files are meant."),
    ] = False,
    overlay: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT", help="Draw the findings: OUT.png, or a folder for several files."
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

    FILE is a file, a folder, or a pattern in quotes. A file that is refused is reported with a code
    and a hint, and the others go on. The exit status is 0 if all files were answered, 1 if one was
    refused, 2 if the command itself is wrong.

    For example:

        hilum-edge detect chest.dcm --overlay chest.png
        hilum-edge detect --json 'studies/*.dcm' > findings.jsonl
        hilum-edge detect --recursive /data/inbox --overlay drawn/
    """
    from edge_agent import commands  # noqa: PLC0415  # see above

    status = commands.detect(
        files,
        as_json=as_json,
        overlay=overlay,
        bundle=bundle,
        threshold=threshold,
        recursive=recursive,
        config=config,
    )
    raise typer.Exit(status)


@app.command()
def model(
    bundle: BundleOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON document.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show what a bundle is: version, digest, engines, operating points, origin.

    For example:

        hilum-edge model
        hilum-edge model --bundle chest-2.1.0.bundle --json
    """
    from edge_agent import commands  # noqa: PLC0415  # see above

    raise typer.Exit(commands.model(bundle=bundle, as_json=as_json, config=config))


if __name__ == "__main__":
    main()
