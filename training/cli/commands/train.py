"""Commands that train: `run`, `tune` and `all`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from training.cli.options import ConfigOption

app = typer.Typer()


@app.command()
def run(
    *,
    config: ConfigOption,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume from the checkpoint in the run's folder.")
    ] = False,
    launcher: Annotated[
        Literal["local", "ray"],
        typer.Option(help="local: this process, and those of torchrun; ray: a Ray cluster."),
    ] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Number of processes on Ray.")] = 1,
) -> None:
    """Train a detector as configured. Writes a checkpoint after every epoch, and the best weights.

    Example: `hilum-train run --config c.yaml`

    On several GPUs: `torchrun --nproc-per-node 4 --no-python hilum-train run --config c.yaml`
    """
    from training.cli.actions import train  # noqa: PLC0415 - torch

    raise typer.Exit(train.run(config=config, resume=resume, launcher=launcher, workers=workers))


@app.command()
def tune(*, config: ConfigOption) -> None:
    """Search for better settings as the section `tune` states; resumes an interrupted search.

    Example: `hilum-train tune --config c.yaml`
    """
    from training.cli.actions import train  # noqa: PLC0415 - torch

    raise typer.Exit(train.tune(config=config))


@app.command("all")
def run_all(*, config: ConfigOption) -> None:
    """Run every stage from an imported set to a published bundle.

    The stages are: train, evaluate, export, check parity, pack, publish. Stages whose inputs have
    not changed are skipped, so an interrupted run continues when it is started again.

    Example: `hilum-train all --config c.yaml`
    """
    from training.cli.actions import bundle  # noqa: PLC0415 - torch

    raise typer.Exit(bundle.run_all(config=config))
