"""The commands of `hilum-train data`: import, split, report on, and export annotated sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from training.cli.options import CONTEXT, DatasetOption, NewSplit, SplitSeed, TestShare, ValidShare

app = typer.Typer(
    help="Import, check, split and export annotated sets; compute the generator's aggregates.",
    no_args_is_help=True,
    context_settings=CONTEXT,
)


@app.command()
def vindr(
    *,
    annotations: Annotated[
        Path,
        typer.Option(metavar="CSV", help="Readers' boxes in VinDr-CXR's columns; also gzipped."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the new set.")],
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Study images (DICOM, PNG, JPEG), named by image id, also in sub-folders. "
            "Without it, only the table is imported.",
        ),
    ] = None,
    fit: Annotated[
        int,
        typer.Option(
            min=0,
            max=8192,
            help="Store images for a model input of this side, resized as the edge agent does; "
            "0 keeps their size.",
        ),
    ] = 1024,
    fusion_iou: Annotated[
        float, typer.Option(min=0.05, max=0.95, help="Boxes that overlap by more are one finding.")
    ] = 0.4,
    valid: ValidShare = 0.1,
    test: TestShare = 0.1,
    seed: SplitSeed = 0,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes that read images.")] = 2,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            help="Leave out invalid rows and images, and list them in the report. Files that "
            "cannot be decoded are left out and listed in any case.",
        ),
    ] = False,
    new_split: NewSplit = False,
    allow_absent_classes: Annotated[
        bool,
        typer.Option("--allow-absent-classes", help="Continue although a class has no example."),
    ] = False,
) -> None:
    """Import a set annotated by several readers: check, fuse, split, report.

    An interrupted import continues when it is started again.

    Example: `hilum-train data vindr --annotations train.csv --images train --out set`
    """
    from training.cli.actions import data  # noqa: PLC0415 - pandas
    from training.data.import_set import ImportOptions  # noqa: PLC0415 - pandas

    raise typer.Exit(
        data.vindr(
            ImportOptions(
                annotations=annotations,
                images=images,
                out=out,
                fit=fit or None,
                iou=fusion_iou,
                shares=_shares(valid, test),
                seed=seed,
                workers=workers,
                skip_bad=skip_bad,
                new_split=new_split,
                allow_absent_classes=allow_absent_classes,
            )
        )
    )


@app.command()
def split(
    *,
    data_dir: DatasetOption,
    valid: ValidShare = 0.1,
    test: TestShare = 0.1,
    seed: SplitSeed = 0,
    new_split: NewSplit = False,
) -> None:
    """Split a set into train, valid and test; patients and near-duplicates stay together.

    Example: `hilum-train data split --data set --seed 3 --new-split`
    """
    from training.cli.actions import data  # noqa: PLC0415 - pandas

    raise typer.Exit(
        data.split(data=data_dir, seed=seed, shares=_shares(valid, test), new=new_split)
    )


@app.command()
def report(*, data_dir: DatasetOption) -> None:
    """Write the quality report of a set again.

    Example: `hilum-train data report --data set`
    """
    from training.cli.actions import data  # noqa: PLC0415 - pandas

    raise typer.Exit(data.report(data=data_dir))


@app.command()
def export(
    *,
    data_dir: DatasetOption,
    form: Annotated[Literal["yolo", "coco"], typer.Option("--format", help="The layout.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the exported set.")],
) -> None:
    """Write a set, with its split, in the layout of another tool.

    Example: `hilum-train data export --data set --format coco --out set-coco`
    """
    from training.cli.actions import data  # noqa: PLC0415 - pandas

    raise typer.Exit(data.export(data=data_dir, form=form, out=out))


@app.command()
def statistics(
    annotations: Annotated[Path, typer.Option(metavar="CSV", help="VinDr-CXR's train.csv.")],
    out: Annotated[Path, typer.Option(metavar="JSON", help="File for the aggregates.")],
) -> None:
    """Aggregate the readers' boxes: frequency, position, size and co-occurrence.

    Example: `hilum-train data statistics --annotations vinbigdata-train.csv.gz --out boxes.json`
    """
    from training.cli.actions import synthetic  # noqa: PLC0415 - pandas

    raise typer.Exit(synthetic.statistics(annotations=annotations, out=out))


@app.command()
def lung_shapes(
    masks: Annotated[Path, typer.Option(metavar="DIR|ZIP", help="Lung masks, frontal views.")],
    out: Annotated[Path, typer.Option(metavar="JSON", help="File for the shape model.")],
) -> None:
    """Aggregate lung outlines into the shape model of the generator.

    Example: `hilum-train data lung-shapes --masks semantic_masks_v7labs_lungs.zip --out lungs.json`
    """
    from training.cli.actions import synthetic  # noqa: PLC0415 - OpenCV

    raise typer.Exit(synthetic.lung_shapes(masks=masks, out=out))


def _shares(valid: float, test: float) -> tuple[float, float, float]:
    if valid + test >= 1:
        raise typer.BadParameter("--valid and --test leave no share for training")
    return 1 - valid - test, valid, test
