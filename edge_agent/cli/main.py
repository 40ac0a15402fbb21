"""`hilum-edge`: the commands and options of the command line. Each command's work is in a module.

Those modules import pydicom, OpenCV and OpenVINO, which takes a second. They are imported when
their command runs, so that `--help` is printed at once.
"""

from __future__ import annotations

import io
import os
import sys
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Annotated

import click
import typer

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
        help="The model to use instead of the starter; `starter-hardswish` is included too.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print a JSON document.")]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model", metavar="NAME", help="The served model that it concerns, if not the default."
    ),
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE", help="The key file, instead of access.keys."),
]


def main() -> None:
    """Run the installed command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name may have bytes that the terminal's encoding has no characters for.
        sys.stdout.reconfigure(errors="backslashreplace")
    app()


def _show_version(requested: bool) -> None:
    if requested:
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
    # gRPC reads this when it is imported. Its own messages are not in the log's format.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


@app.command()
def serve(
    config: ConfigOption = None,
    port: Annotated[
        int | None,
        typer.Option(metavar="N", help="Port for gRPC instead of 50051; 0 for a free one."),
    ] = None,
    http_port: Annotated[
        int | None,
        typer.Option(metavar="N", help="Port for HTTP instead of 8080; 0 for a free one."),
    ] = None,
    bundle: BundleOption = None,
) -> None:
    """Serve over gRPC and HTTP, with a page for browsers, until SIGTERM or Ctrl-C.

    The health service reports SERVING once the model is loaded and tested. On a first signal the
    agent finishes the requests in flight; on a second it ends at once. On SIGHUP it takes the
    bundle in the settings if that was changed, and otherwise runs the golden cases again.

    Options override the environment, and the environment overrides the settings file.

    For example:

        hilum-edge serve
        hilum-edge serve --config /etc/hilum/edge.toml --port 50052
        HILUM_EDGE__LIMITS__QUEUE_SIZE=16 hilum-edge serve
    """
    from edge_agent.cli.serve import serve_command  # noqa: PLC0415  # see the module

    status = serve_command(config=config, port=port, http_port=http_port, bundle=bundle)
    raise typer.Exit(status)


@app.command()
def detect(
    files: Annotated[list[str], typer.Argument(metavar="FILE...")],
    *,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print a JSON document; for several files, one a line."),
    ] = False,
    overlay: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT",
            help="Draw the findings into OUT.png, or for several files into a folder.",
        ),
    ] = None,
    bundle: BundleOption = None,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="T", help="Score threshold for all findings, above 0 and up to 1."),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Include the files in subfolders.")
    ] = False,
    config: ConfigOption = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Send the files to this agent instead of running the model."
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file with the API key for that agent.")
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Use TLS; the CA that signed its certificate (PEM)."),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The client certificate to show (PEM).")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The client certificate's key (PEM).")
    ] = None,
    server_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The name in its certificate, if not HOST."),
    ] = None,
) -> None:
    """Find abnormalities in radiographs (DICOM, JPEG, PNG, TIFF), here or through an agent.

    FILE is a file, a folder, or a pattern in quotes. A file that is refused is reported with a code
    and a hint, and the others are processed. The exit status is 0 if all files were answered, 1 if
    one was refused, and 2 if the command is wrong.

    For example:

        hilum-edge detect chest.dcm --overlay chest.png
        hilum-edge detect --json 'studies/*.dcm' > findings.jsonl
        hilum-edge detect --recursive /data/inbox --overlay drawn/
        hilum-edge detect chest.dcm --server xray.example:50051 --ca ca.pem --api-key-file key
    """
    from edge_agent.cli.detect import detect_command  # noqa: PLC0415  # see the module
    from edge_agent.cli.remote import RemoteAgent  # noqa: PLC0415  # see the module
    from hilum.client import Tls  # noqa: PLC0415  # see the module

    has_tls = any((ca, certificate, key, server_name))
    if server is None and (has_tls or api_key_file):
        raise typer.BadParameter("these options are for --server", param_hint="--ca and others")
    if (certificate is None) != (key is None):
        raise typer.BadParameter("give both or neither", param_hint="--certificate and --key")
    tls = Tls(ca, certificate, key, server_name) if has_tls else None
    status = detect_command(
        files,
        as_json=as_json,
        overlay=overlay,
        bundle=bundle,
        threshold=threshold,
        recursive=recursive,
        config=config,
        server=None if server is None else RemoteAgent(server, api_key_file, tls),
    )
    raise typer.Exit(status)


@app.command()
def bench(
    image: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Measure with this study image.")
    ] = None,
    as_json: JsonOption = False,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report to a file (.md or .json).")
    ] = None,
    bundle: BundleOption = None,
    config: ConfigOption = None,
) -> None:
    """Measure this machine: decoding, each engine, a round trip over gRPC, memory.

    For example:

        hilum-edge bench --output box.md
    """
    from edge_agent.cli.benchmark import bench_command  # noqa: PLC0415  # see the module

    status = bench_command(
        config=config, bundle=bundle, image=image, as_json=as_json, output=output
    )
    raise typer.Exit(status)


model = typer.Typer(
    help="Show a bundle, and change the models of a running agent.", no_args_is_help=True
)
app.add_typer(model, name="model")


@model.command("show")
def model_show(
    bundle: BundleOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show a bundle's version, digest, engines, operating points and origin.

    For example:

        hilum-edge model show

        hilum-edge model show --bundle chest-2.1.0.bundle --json
    """
    from edge_agent.cli.model import show_command  # noqa: PLC0415  # see the module

    raise typer.Exit(show_command(bundle=bundle, as_json=as_json, config=config))


@model.command("list")
def model_list(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the models that the running agent serves, and what a revert would activate.

    For example:

        hilum-edge model list --config /etc/hilum/edge.toml
    """
    from edge_agent.cli.model_control import list_command  # noqa: PLC0415  # see the module

    raise typer.Exit(list_command(config=config, as_json=as_json))


@model.command("activate")
def model_activate(
    bundle: Annotated[Path, typer.Argument(metavar="FILE", help="The bundle that is to answer.")],
    replaces: ModelOption = "",
    config: ConfigOption = None,
) -> None:
    """Let the running agent answer with another bundle, without a pause.

    The bundle is copied, opened and tested beside the model that answers. Requests in flight keep
    their model. If the golden cases fail, also after the change, the old model answers. The exit
    status is then 1. The bundle stays active after a restart, until another one is activated or
    set in the settings.

    For example:

        hilum-edge model activate /srv/bundles/chest-2.1.0.bundle
    """
    from edge_agent.cli.model_control import activate_command  # noqa: PLC0415  # see the module

    raise typer.Exit(activate_command(bundle=bundle, model=replaces, config=config))


@model.command("revert")
def model_revert(replaces: ModelOption = "", config: ConfigOption = None) -> None:
    """Let the running agent answer with the bundle that was active before.

    For example:

        hilum-edge model revert
    """
    from edge_agent.cli.model_control import revert_command  # noqa: PLC0415  # see the module

    raise typer.Exit(revert_command(model=replaces, config=config))


@model.command("shadow")
def model_shadow(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The bundle to run beside it.")
    ] = None,
    *,
    off: Annotated[bool, typer.Option("--off", help="End the shadow.")] = False,
    beside: ModelOption = "",
    config: ConfigOption = None,
) -> None:
    """Run another bundle beside the served model, on images that were answered.

    Its findings are compared with the served model's, counted, and never sent to anybody. It
    computes only when the machine is idle. `model list --json` and /metrics show the agreement.

    For example:

        hilum-edge model shadow /srv/bundles/chest-2.2.0.bundle

        hilum-edge model shadow --off
    """
    from edge_agent.cli.model_control import shadow_command  # noqa: PLC0415  # see the module

    if (bundle is None) != off:
        raise typer.BadParameter("give a bundle, or --off", param_hint="FILE")
    raise typer.Exit(shadow_command(bundle=bundle, model=beside, config=config))


keys = typer.Typer(help="Manage API keys, which clients of this agent need.", no_args_is_help=True)
app.add_typer(keys, name="keys")


@keys.command("add")
def keys_add(
    role: Annotated[
        str,
        typer.Option(
            click_type=click.Choice(["viewer", "clinic", "admin"]), help="What the key permits."
        ),
    ],
    label: Annotated[
        str, typer.Option(metavar="TEXT", help="Who uses the key; never a patient's name.")
    ] = "",
    days: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Days until the key expires.")
    ] = None,
    file: KeyFileOption = None,
    config: ConfigOption = None,
) -> None:
    """Create a key and write it to standard output, this once; the file stores its hash.

    For example:

        hilum-edge keys add --role clinic --label "PACS gateway" --file keys.json > gateway.key
    """
    from edge_agent.cli.keys import add_command  # noqa: PLC0415  # see the module

    raise typer.Exit(add_command(config=config, file=file, role=role, label=label, days=days))


@keys.command("list")
def keys_list(file: KeyFileOption = None, config: ConfigOption = None) -> None:
    """List the keys' ids, roles and labels, never the keys.

    For example:

        hilum-edge keys list --file keys.json
    """
    from edge_agent.cli.keys import list_command  # noqa: PLC0415  # see the module

    raise typer.Exit(list_command(config=config, file=file))


@keys.command("remove")
def keys_remove(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `keys list` shows it.")],
    file: KeyFileOption = None,
    config: ConfigOption = None,
) -> None:
    """Remove a key; running agents refuse it at once.

    For example:

        hilum-edge keys remove d749674150 --file keys.json
    """
    from edge_agent.cli.keys import remove_command  # noqa: PLC0415  # see the module

    raise typer.Exit(remove_command(config=config, file=file, key_id=key_id))


audit = typer.Typer(help="Check, show and export the log of every access.", no_args_is_help=True)
app.add_typer(audit, name="audit")

AuditFolderOption = Annotated[
    Path | None,
    typer.Option("--folder", metavar="FOLDER", help="The log, instead of the settings' own."),
]


@audit.command("verify")
def audit_verify(
    folder: AuditFolderOption = None,
    archived: Annotated[
        bool, typer.Option("--archived", help="Older entries have been moved elsewhere.")
    ] = False,
    box: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The box that must have written it; default: this one."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Check the log's hash chain, or an export's.

    The exit status is 1 if an entry was changed or is missing, if another box wrote the log, or if
    nothing states where it ends.

    For example:

        hilum-edge audit verify --folder /var/lib/hilum/audit
    """
    from edge_agent.cli.audit import verify_command  # noqa: PLC0415  # see the module

    raise typer.Exit(verify_command(config=config, folder=folder, archived=archived, box=box))


@audit.command("show")
def audit_show(
    last: Annotated[
        int, typer.Option("--last", metavar="N", min=1, help="The number of entries.")
    ] = 20,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each entry as it is, a JSON document.")
    ] = False,
    folder: AuditFolderOption = None,
    config: ConfigOption = None,
) -> None:
    """Print the last entries, also while the agent runs.

    For example:

        hilum-edge audit show --last 100
    """
    from edge_agent.cli.audit import show_command  # noqa: PLC0415  # see the module

    raise typer.Exit(show_command(config=config, folder=folder, last=last, as_json=as_json))


@audit.command("export")
def audit_export(
    to: Annotated[
        Path, typer.Option("--to", metavar="FOLDER", help="The folder to write a new file to.")
    ],
    folder: AuditFolderOption = None,
    config: ConfigOption = None,
) -> None:
    """Write the entries since the last export to a file that can be checked on its own.

    The agent may then remove them from its log (audit.retention_days).

    For example:

        hilum-edge audit export --to /mnt/archive/audit
    """
    from edge_agent.cli.audit import export_command  # noqa: PLC0415  # see the module

    raise typer.Exit(export_command(config=config, folder=folder, target=to))


if __name__ == "__main__":
    main()
