"""The options of `hilum-train evaluate`, declared once for the command line and the code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """The options of `hilum-train evaluate`."""

    split: Annotated[
        str,
        typer.Option(
            metavar="NAME|DIR",
            help="A split of `--data`; without `--data`, the folder of a set, used as a whole.",
        ),
    ]
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for evaluation.json and evaluation.html.")
    ]
    bundle: Annotated[Path | None, typer.Option(metavar="BUNDLE", help="Measure this bundle.")] = (
        None
    )
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Or measure weights of training, in FP32.")
    ] = None
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="A stored set.")] = None
    variant: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Engine variant of the bundle.  [default: its first]"),
    ] = None
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLE", help="Also measure this bundle on the same images."),
    ] = None
    baseline_variant: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Its engine variant.  [default: as above, or its first]"),
    ] = None
    rules: Annotated[
        Path | None,
        typer.Option(metavar="YAML", help="Acceptance rules; exit status 1 where one fails."),
    ] = None
    architecture: Annotated[str, typer.Option(help="Architecture of plain weights.")] = "yolo11n"
    input_size: Annotated[
        int | None,
        typer.Option(help="Input size of plain weights in pixels.  [default: as stored, or 416]"),
    ] = None
    device: Annotated[
        str, typer.Option(help="Compute device of torch for weights, such as `cuda`.")
    ] = "cpu"
    choose_on: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Split on which the weights' operating points are chosen."
        ),
    ] = None
    false_positives: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Choose operating points for this many false positives per class and image.  "
            "[default: 0.05]",
        ),
    ] = None
    sensitivity: Annotated[
        float | None,
        typer.Option(min=0.01, max=1, help="Or choose them for this sensitivity of each class."),
    ] = None
    resamples: Annotated[
        int, typer.Option(min=10, help="Number of resampled sets for intervals.")
    ] = 1000
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resampling.")] = 0
    workers: Annotated[
        int, typer.Option(min=1, help="Number of threads that read images and detect.")
    ] = 2
