"""Commands that use synthetic radiographs: `synthetic`, `starter` and `content-check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from training.cli.options import BackgroundsOption, PainterProcesses

app = typer.Typer()


@app.command()
def synthetic(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the new set.")],
    count: Annotated[int, typer.Option(min=1, help="Number of radiographs.")] = 100,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the first; each further one has the next seed.")
    ] = 0,
    backgrounds: BackgroundsOption = None,
    preview: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Also draw the first 24 with their boxes on one sheet."),
    ] = None,
    studies: Annotated[
        bool,
        typer.Option(
            "--studies",
            help="Write what a hospital would provide, for `data vindr`: DICOM studies and a "
            "table of three readers' boxes.",
        ),
    ] = False,
    workers: PainterProcesses = 2,
) -> None:
    """Generate a set of synthetic radiographs with findings.

    Example: `hilum-train synthetic --out /tmp/set --count 200 --preview /tmp/sheet.png`
    """
    from training.cli.actions import synthetic  # noqa: PLC0415 - OpenCV

    raise typer.Exit(
        synthetic.synthetic(
            out=out,
            count=count,
            seed=seed,
            backgrounds=backgrounds,
            preview=preview,
            studies=studies,
            workers=workers,
        )
    )


@app.command()
def starter(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the bundle.")],
    work: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Sets and checkpoints, for resuming an interrupted run."),
    ] = Path("build/starter"),
    backgrounds: BackgroundsOption = None,
    content_check: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A content check from `content-check`, or a bundle that has one."
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Start from the `weights.pt` of an earlier run."),
    ] = None,
    replaces: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLE", help="The bundle that the new one replaces."),
    ] = None,
    activation: Annotated[
        Literal["silu", "hardswish", "relu"] | None,
        typer.Option(help="hardswish is faster in INT8.  [default: silu, or that of --weights]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split and the training.")] = 11,
    name: Annotated[str, typer.Option(help="Name of the bundle.")] = "starter",
    version: Annotated[str, typer.Option(help="Version of the bundle.")] = "0.1.0",
    modifications: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Changes since the last version, for the model card."),
    ] = "First version.",
    train_images: Annotated[int, typer.Option(min=16, help="Number of training images.")] = 4800,
    held_out_images: Annotated[
        int, typer.Option(min=8, help="Number of validation images, and of test images.")
    ] = 1000,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="12 from random weights, 9 with --weights.")
    ] = None,
    small_epochs: Annotated[
        int | None, typer.Option(min=0, help="The first of them, at 256 pixels: 4, or none.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0)] = None,
    workers: PainterProcesses = 2,
) -> None:
    """Make the starter bundle again: generate a set, then run every stage of `all`.

    Example: `hilum-train starter --out edge_agent/starter --backgrounds RADIOGRAPHS`
    """
    from training.cli.actions import starter as actions  # noqa: PLC0415 - torch

    settings = {
        "epochs": epochs,
        "small_epochs": small_epochs,
        "learning_rate": learning_rate,
        "activation": activation,
        "seed": seed,
    }
    raise typer.Exit(
        actions.starter(
            out=out,
            work=work,
            backgrounds=backgrounds,
            content_check=content_check,
            weights=weights,
            replaces=replaces,
            name=name,
            version=version,
            modifications=modifications,
            train_images=train_images,
            held_out_images=held_out_images,
            workers=workers,
            settings={key: value for key, value in settings.items() if value is not None},
        )
    )


@app.command()
def content_check(
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File of the content check.")],
    backgrounds: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Real frontal radiographs; `attribution.csv` in the folder names their origin "
            "and licence.",
        ),
    ],
    others: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Images that show no chest, only to measure on."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="MD", help="File for the confusion tables.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training.")] = 5,
) -> None:
    """Train the content check: is this a frontal chest, upright, bone white?

    Example: `hilum-train content-check --out content-check.zip --backgrounds RADIOGRAPHS`
    """
    from training.cli.actions import content_check as commands  # noqa: PLC0415 - torch

    raise typer.Exit(
        commands.train_content_check(
            out=out, radiographs=backgrounds, others=others or [], tables=report, seed=seed
        )
    )
