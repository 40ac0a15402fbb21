"""`hilum-edge`: what can be asked for on the command line. What is done then is in `commands`."""

from __future__ import annotations

import io
import os
import sys
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Annotated

import click
import typer

# The commands import pydicom, OpenCV and OpenVINO, which takes a second: only they wait for it,
# `--help` does not.

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
    typer.Option(
        "--bundle",
        metavar="FILE",
        help="The model to use instead of the starter; `starter-hardswish` comes along too.",
    ),
]


def main() -> None:
    """Entry point of the installed command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name may have bytes that the terminal's encoding has no letters for.
        sys.stdout.reconfigure(errors="backslashreplace")
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
    from edge_agent.cli import commands  # noqa: PLC0415  # see above

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
    server: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Have this agent look instead of this machine."),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The agent's API key, in a file.")
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Speak TLS; who signed the agent's certificate (PEM)."),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Our own certificate (PEM).")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The private key of our certificate (PEM).")
    ] = None,
    server_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The name in the agent's certificate, if another."),
    ] = None,
) -> None:
    """Look at radiographs (DICOM, JPEG, PNG, TIFF) without a server, or have an agent look.

    FILE is a file, a folder, or a pattern in quotes. A file that is refused is reported with a code
    and a hint, and the others go on. The exit status is 0 if all files were answered, 1 if one was
    refused, 2 if the command itself is wrong.

    For example:

        hilum-edge detect chest.dcm --overlay chest.png
        hilum-edge detect --json 'studies/*.dcm' > findings.jsonl
        hilum-edge detect --recursive /data/inbox --overlay drawn/
        hilum-edge detect chest.dcm --server xray.example:50051 --ca ca.pem --api-key-file key
    """
    from edge_agent.cli import commands  # noqa: PLC0415  # see above
    from hilum.client import Tls  # noqa: PLC0415  # see above

    wants_tls = any((ca, certificate, key, server_name))
    if server is None and (wants_tls or api_key_file):
        raise typer.BadParameter("these options are for --server", param_hint="--ca and others")
    if (certificate is None) != (key is None):
        raise typer.BadParameter("give both or neither", param_hint="--certificate and --key")

    status = commands.detect(
        files,
        as_json=as_json,
        overlay=overlay,
        bundle=bundle,
        threshold=threshold,
        recursive=recursive,
        config=config,
        server=server,
        api_key_file=api_key_file,
        tls=Tls(ca, certificate, key, server_name) if wants_tls else None,
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
    from edge_agent.cli import commands  # noqa: PLC0415  # see above

    raise typer.Exit(commands.model(bundle=bundle, as_json=as_json, config=config))


keys = typer.Typer(help="API keys: who may ask this agent.", no_args_is_help=True)
audit = typer.Typer(help="The log of every access.", no_args_is_help=True)
app.add_typer(keys, name="keys")
app.add_typer(audit, name="audit")

KeyFileOption = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE", help="The key file, instead of access.keys."),
]


@keys.command("add")
def keys_add(
    role: Annotated[
        str, typer.Option(click_type=click.Choice(["viewer", "clinic", "admin"]), help="May what.")
    ],
    label: Annotated[str, typer.Option(metavar="TEXT", help="Who uses it; no patient.")] = "",
    days: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Good for so many days only.")
    ] = None,
    file: KeyFileOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a key and write it to standard output, this once; the file keeps its hash.

    For example:

        hilum-edge keys add --role clinic --label "PACS gateway" --file keys.json > gateway.key
    """
    from edge_agent.cli import commands_operator  # noqa: PLC0415  # see above

    raise typer.Exit(
        commands_operator.add(config=config, file=file, role=role, label=label, days=days)
    )


@keys.command("list")
def keys_list(file: KeyFileOption = None, config: ConfigOption = None) -> None:
    """Show whose keys there are, never the keys.

    For example:

        hilum-edge keys list --file keys.json
    """
    from edge_agent.cli import commands_operator  # noqa: PLC0415  # see above

    raise typer.Exit(commands_operator.show(config=config, file=file))


@keys.command("remove")
def keys_remove(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `keys list` shows it.")],
    file: KeyFileOption = None,
    config: ConfigOption = None,
) -> None:
    """Take a key out; agents stop knowing it at once.

    For example:

        hilum-edge keys remove d749674150 --file keys.json
    """
    from edge_agent.cli import commands_operator  # noqa: PLC0415  # see above

    raise typer.Exit(commands_operator.remove(config=config, file=file, key_id=key_id))


@audit.command("verify")
def audit_verify(
    folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Instead of the settings' own.")
    ] = None,
    archived: Annotated[
        bool, typer.Option("--archived", help="Older segments were moved away.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Say whether the log is whole, or the first line that is not. Exit status 1 if not.

    For example:

        hilum-edge audit verify --folder /var/lib/hilum/audit
    """
    from edge_agent.cli import commands_operator  # noqa: PLC0415  # see above

    raise typer.Exit(
        commands_operator.verify_audit(config=config, folder=folder, archived=archived)
    )


@app.command()
def bench(
    image: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A study image of yours to measure with.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON document.")] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report there (.md or .json).")
    ] = None,
    bundle: BundleOption = None,
    config: ConfigOption = None,
) -> None:
    """Measure this box: decoding, each engine, a round trip over gRPC, memory.

    For example:

        hilum-edge bench --output box.md
    """
    from edge_agent.cli import commands_operator  # noqa: PLC0415  # see above

    raise typer.Exit(
        commands_operator.bench(
            config=config, bundle=bundle, image=image, as_json=as_json, output=output
        )
    )


if __name__ == "__main__":
    main()
