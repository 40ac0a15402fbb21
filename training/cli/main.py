"""The entry point of `hilum-train`: it joins the commands of `training.cli.commands`.

The commands import torch when they run, which takes seconds, so that `--help` is printed at once.
"""

from __future__ import annotations

from importlib.metadata import version as distribution_version
from typing import Annotated

import typer

from training.cli.commands import data, evaluate, export, release, synthetic, train
from training.cli.options import CONTEXT

app = typer.Typer(
    name="hilum-train",
    help="Make the models that the edge agent runs. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings=CONTEXT,
)
for group in (train, evaluate, export, release, synthetic):
    app.add_typer(group.app)
app.add_typer(data.app, name="data")


def main() -> None:
    """Run the installed command."""
    app()


def _show_version(requested: bool) -> None:
    if requested:
        typer.echo(f"hilum-train {distribution_version('hilum')}")
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
    pass
