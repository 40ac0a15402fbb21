"""`hilum-train`: what can be asked for. What is done then is in `training.cli.synthetic`."""

from __future__ import annotations

from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Annotated, Literal

import typer

# The commands import torch, which takes seconds: `--help` does not wait for it.

_HELP = {"help_option_names": ["--help", "-h"]}

app = typer.Typer(
    name="hilum-train",
    help="Make the models that the edge agent runs. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings=_HELP,
)
data = typer.Typer(
    help="Import, check, divide and export annotated sets; remake the generator's aggregates.",
    no_args_is_help=True,
    context_settings=_HELP,
)
app.add_typer(data, name="data")

Backgrounds = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Real radiographs (JPEG, PNG) to add synthetic findings to; `attribution.csv` in the "
        "folder says whose they are.",
    ),
]
Configuration = Annotated[
    Path, typer.Option(metavar="YAML", help="What to train, on what, and where to.")
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that paint.")]


def main() -> None:
    """Entry point of the installed command."""
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
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


@app.command()
def synthetic(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the set is written.")],
    count: Annotated[int, typer.Option(min=1, help="How many radiographs.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first; the next has one more.")] = 0,
    backgrounds: Backgrounds = None,
    preview: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Also draw the first 24 with their boxes on one sheet."),
    ] = None,
    studies: Annotated[
        bool,
        typer.Option(
            "--studies",
            help="As a hospital would hand it over: DICOM studies and a table of three readers' "
            "boxes, for `data vindr`.",
        ),
    ] = False,
    workers: Workers = 2,
) -> None:
    """Paint a set of synthetic radiographs with findings.

    Example: `hilum-train synthetic --out /tmp/set --count 200 --preview /tmp/sheet.png`
    """
    from training.cli import synthetic  # noqa: PLC0415  # torch and OpenCV, only when needed

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
def run(
    *,
    config: Configuration,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in the run's folder.")
    ] = False,
    launcher: Annotated[
        Literal["local", "ray"],
        typer.Option(help="local: here, and beside what torchrun started; ray: on a Ray cluster."),
    ] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Processes on the Ray cluster.")] = 1,
) -> None:
    """Train a detector as a configuration says; a checkpoint after every epoch, the best weights.

    Example: `hilum-train run --config c.yaml`

    On several GPUs: `torchrun --nproc-per-node 4 --no-python hilum-train run --config c.yaml`
    """
    from training.cli import train  # noqa: PLC0415  # torch, only when needed

    raise typer.Exit(train.run(config=config, resume=resume, launcher=launcher, workers=workers))


@app.command()
def tune(*, config: Configuration) -> None:
    """Search for better settings, as the section `tune` says; a stopped search goes on.

    Example: `hilum-train tune --config c.yaml`
    """
    from training.cli import train  # noqa: PLC0415  # torch, only when needed

    raise typer.Exit(train.tune(config=config))


@app.command()
def starter(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the bundle is written.")],
    work: Annotated[
        Path, typer.Option(metavar="DIR", help="Sets and checkpoints; a stopped run goes on there.")
    ] = Path("build/starter"),
    backgrounds: Backgrounds = None,
    content_check: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A content check from `content-check`, or a bundle that has one."
        ),
    ] = None,
    begin_with: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLE", help="Train an earlier bundle's network further."),
    ] = None,
    activation: Annotated[
        Literal["silu", "hardswish", "relu"] | None,
        typer.Option(help="hardswish: quicker in INT8.  [default: silu, or the bundle's]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the split and the training.")] = 11,
    name: Annotated[str, typer.Option(help="Name of the bundle.")] = "starter",
    version: Annotated[str, typer.Option(help="Version of the bundle.")] = "0.1.0",
    modifications: Annotated[
        str, typer.Option(metavar="TEXT", help="What changed, for the card.")
    ] = "First version.",
    train_images: Annotated[int, typer.Option(min=16)] = 4800,
    held_out_images: Annotated[
        int, typer.Option(min=8, help="For operating points, and as many for figures.")
    ] = 1000,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="12 from random weights, 9 with --begin-with.")
    ] = None,
    small_epochs: Annotated[
        int | None, typer.Option(min=0, help="Of them at 256 pixels: 4, or none.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0)] = None,
    workers: Workers = 2,
) -> None:
    """Remake the starter bundle: a painted set, then every step of `all`.

    Example: `hilum-train starter --out edge_agent/starter --backgrounds RADIOGRAPHS`
    """
    from training.cli import synthetic  # noqa: PLC0415  # torch, only when needed

    stated = {
        "epochs": epochs,
        "small_epochs": small_epochs,
        "learning_rate": learning_rate,
        "activation": activation,
    }
    raise typer.Exit(
        synthetic.starter(
            out=out,
            work=work,
            backgrounds=backgrounds,
            content_check=content_check,
            beginning=begin_with,
            name=name,
            version=version,
            modifications=modifications,
            train_images=train_images,
            held_out_images=held_out_images,
            workers=workers,
            settings={key: value for key, value in stated.items() if value is not None}
            | {"seed": seed},
        )
    )


@app.command()
def content_check(
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the content check is written.")],
    backgrounds: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Real frontal radiographs; `attribution.csv` as above."),
    ],
    others: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Pictures of no chest, only to be measured on."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="MD", help="Write the confusion tables here.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 5,
) -> None:
    """Train the content check: is this a frontal chest, upright, bone white?

    Example: `hilum-train content-check --out content-check.zip --backgrounds RADIOGRAPHS`
    """
    from training.cli import content_check as commands  # noqa: PLC0415  # torch, only when needed

    raise typer.Exit(
        commands.train_content_check(
            out=out, radiographs=backgrounds, others=others or [], tables=report, seed=seed
        )
    )


@app.command()
def add_content_check(
    *,
    bundle: Annotated[Path, typer.Option(metavar="BUNDLE", help="Stays as it is.")],
    content_check: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="From `hilum-train content-check`, or a bundle that has one."
        ),
    ],
    version: Annotated[
        str, typer.Option(help="Of the new bundle; another one if the old was released.")
    ],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Where the new bundle is written.")],
) -> None:
    """Pack a bundle again with a content check; all else stays byte by byte.

    Example: `hilum-train add-content-check --bundle a.bundle --content-check check.zip
    --version 0.2.0 --out b.bundle`
    """
    from training.cli import content_check as commands  # noqa: PLC0415  # OpenVINO, only when needed

    raise typer.Exit(
        commands.add_content_check(
            bundle=bundle, content_check=content_check, version=version, out=out
        )
    )


@app.command()
def evaluate(
    *,
    split: Annotated[
        str,
        typer.Option(
            metavar="NAME|DIR",
            help="A split of `--data`; without `--data`, the folder of a set, used as a whole.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="evaluation.json and evaluation.html go here.")
    ],
    bundle: Annotated[Path | None, typer.Option(metavar="BUNDLE")] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights that training wrote, in FP32.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="A stored set.")
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Engine variant of the bundle.  [default: its first]"),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLE", help="Also measure this one and compare, image by image."),
    ] = None,
    baseline_variant: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Its engine variant.  [default: as above, or its first]"),
    ] = None,
    rules: Annotated[
        Path | None,
        typer.Option(metavar="YAML", help="Acceptance rules; exit status 1 where one fails."),
    ] = None,
    architecture: Annotated[str, typer.Option(help="Of plain weights.")] = "yolo11n",
    input_size: Annotated[
        int | None,
        typer.Option(help="Of plain weights, in pixels.  [default: what the file says, or 416]"),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where torch computes with weights, such as `cuda`.")
    ] = "cpu",
    choose_on: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Split on which the weights' operating points are chosen."
        ),
    ] = None,
    false_positives: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Per class and image, at operating points chosen for weights.  [default: 0.05]",
        ),
    ] = None,
    sensitivity: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1,
            help="Instead: share of each class's boxes to find, at points chosen for weights.",
        ),
    ] = None,
    resamples: Annotated[int, typer.Option(min=10, help="Re-drawn sets for intervals.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the re-drawn sets.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read and detect.")] = 2,
) -> None:
    """Measure a bundle or weights on a labelled split, with intervals; JSON and an HTML report.

    Example: `hilum-train evaluate --bundle a.bundle --data SET --split test --rules rules.yaml
    --out /tmp/evaluation`
    """
    from training.cli import evaluate  # noqa: PLC0415  # torch, only when needed

    raise typer.Exit(
        evaluate.evaluate(
            bundle=bundle,
            weights=weights,
            architecture=architecture,
            input_size=input_size,
            device=device,
            split=split,
            data=data_dir,
            variant=variant,
            baseline=baseline,
            baseline_variant=baseline_variant,
            rules=rules,
            choose_on=choose_on,
            false_positives=false_positives,
            sensitivity=sensitivity,
            resamples=resamples,
            seed=seed,
            workers=workers,
            out=out,
        )
    )


@app.command()
def bundle(*, config: Configuration) -> None:
    """Pack a run that was exported, proven and evaluated; the same run gives the same bytes.

    No bundle is made outside the bounds that were declared when the run began.

    Example: `hilum-train bundle --config c.yaml`
    """
    from training.cli import bundle as bundle_commands  # noqa: PLC0415  # torch, only when needed

    raise typer.Exit(bundle_commands.bundle(config=config))


@app.command()
def publish(
    *,
    bundle: Annotated[Path, typer.Option(metavar="BUNDLE", help="What to publish.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="URI", help="MLflow: `http://host:5000`, or `sqlite:///FILE` without a server."
        ),
    ],
    model: Annotated[str, typer.Option(help="Name of the registered model.")] = "hilum",
    experiment: Annotated[str, typer.Option(help="Where its run is listed.")] = "hilum",
    alias: Annotated[str, typer.Option(help="Moves to this version.")] = "candidate",
) -> None:
    """Register a bundle in MLflow, with its figures and tags; the same one twice is one version.

    Example: `hilum-train publish --bundle a.bundle --to http://127.0.0.1:5000`
    """
    from training.cli import bundle as bundle_commands  # noqa: PLC0415  # torch, only when needed

    raise typer.Exit(
        bundle_commands.publish(
            bundle=bundle, to=to, model=model, experiment=experiment, alias=alias
        )
    )


@app.command("all")
def everything(*, config: Configuration) -> None:
    """From an imported set to a published bundle: train, evaluate, export, prove, pack, publish.

    Started again it goes on where it was; steps whose inputs have not changed are skipped.

    Example: `hilum-train all --config c.yaml`
    """
    from training.cli import bundle as bundle_commands  # noqa: PLC0415  # torch, only when needed

    raise typer.Exit(bundle_commands.everything(config=config))


SetFolder = Annotated[Path, typer.Option("--data", metavar="DIR", help="A set of `data vindr`.")]
Seed = Annotated[int, typer.Option(min=0, help="The same one divides the same set the same way.")]
ValidShare = Annotated[float, typer.Option(min=0, max=0.9, help="Share of the valid split.")]
TestShare = Annotated[float, typer.Option(min=0, max=0.9, help="Share of the test split.")]
NewSplit = Annotated[
    bool, typer.Option("--new-split", help="Divide anew, though a split has been frozen.")
]


@app.command("export")
def export_graphs(*, config: Configuration) -> None:
    """Write the trained weights as graphs: OpenVINO IR in FP32 (and BF16), ONNX in FP32 and FP16.

    Example: `hilum-train export --config run.yaml`
    """
    from training.cli import export  # noqa: PLC0415  # torch, only when needed

    raise typer.Exit(export.export(config=config))


@app.command()
def quantize(
    *,
    config: Configuration,
    accuracy_control: Annotated[
        str | None,
        typer.Option(
            metavar="max_drop=X",
            help="Leave operations of OpenVINO's INT8 IR float until mAP@0.5 on the validation "
            "split falls by no more than this; the INT8 ONNX graph is as always.",
        ),
    ] = None,
) -> None:
    """Add INT8 graphs, calibrated on images of the frozen split: OpenVINO IR and ONNX.

    Example: `hilum-train quantize --config run.yaml --accuracy-control max_drop=0.01`
    """
    from training.cli import export  # noqa: PLC0415  # torch and NNCF, only when needed

    raise typer.Exit(export.quantize(config=config, accuracy_control=accuracy_control))


@app.command()
def tensorrt(
    *,
    config: Configuration,
    capability: Annotated[
        list[str] | None,
        typer.Option(
            metavar="8.9",
            help="Compute capability of a card; may be given several times. "
            "[default: the configuration's]",
        ),
    ] = None,
) -> None:
    """Compile INT8 and FP16 engines for cards, and say what became of each. Needs no card.

    Example: `hilum-train tensorrt --config run.yaml --capability 8.6 --capability 8.9`
    """
    from training.cli import export  # noqa: PLC0415  # TensorRT, only when needed

    raise typer.Exit(export.tensorrt(config=config, capabilities=capability or []))


@app.command()
def parity(*, config: Configuration) -> None:
    """Compare every exported variant with torch on the frozen split, within declared bounds.

    Exit status 1 where a bound is not kept; then no bundle is made.

    Example: `hilum-train parity --config run.yaml`
    """
    from training.cli import export  # noqa: PLC0415  # torch, only when needed

    raise typer.Exit(export.parity(config=config))


@data.command()
def vindr(
    *,
    annotations: Annotated[
        Path,
        typer.Option(metavar="CSV", help="Readers' boxes in VinDr-CXR's columns; also gzipped."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the set is written.")],
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Study images (DICOM, PNG, JPEG), named by image id, also in sub-folders. "
            "Without, only the table is looked at.",
        ),
    ] = None,
    fit: Annotated[
        int,
        typer.Option(
            min=0,
            max=8192,
            help="Store pictures for a model input of this side, as the edge agent shrinks them; "
            "0 keeps their size.",
        ),
    ] = 1024,
    fusion_iou: Annotated[
        float, typer.Option(min=0.05, max=0.95, help="Boxes that overlap by more are one finding.")
    ] = 0.4,
    valid: ValidShare = 0.1,
    test: TestShare = 0.1,
    seed: Seed = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read images.")] = 2,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            help="Leave out rows and images that cannot be used, and list them in the report. "
            "Files that cannot be decoded are left out and listed in any case.",
        ),
    ] = False,
    new_split: NewSplit = False,
    allow_absent_classes: Annotated[
        bool,
        typer.Option("--allow-absent-classes", help="Go on though a class has no example."),
    ] = False,
) -> None:
    """Import a set annotated by several readers: check, fuse, divide, report.

    A run that was stopped goes on where it was when started again.

    Example: `hilum-train data vindr --annotations train.csv --images train --out set`
    """
    from training.cli import data  # noqa: PLC0415  # pandas, only when needed
    from training.data.import_set import ImportOptions  # noqa: PLC0415

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


@data.command()
def split(
    *,
    data_dir: SetFolder,
    valid: ValidShare = 0.1,
    test: TestShare = 0.1,
    seed: Seed = 0,
    new_split: NewSplit = False,
) -> None:
    """Divide a set into train, valid and test; patients and look-alikes stay together.

    Example: `hilum-train data split --data set --seed 3 --new-split`
    """
    from training.cli import data  # noqa: PLC0415  # pandas, only when needed

    raise typer.Exit(
        data.split(data=data_dir, seed=seed, shares=_shares(valid, test), new=new_split)
    )


@data.command()
def report(*, data_dir: SetFolder) -> None:
    """Write the quality report of a set anew.

    Example: `hilum-train data report --data set`
    """
    from training.cli import data  # noqa: PLC0415  # pandas, only when needed

    raise typer.Exit(data.report(data=data_dir))


@data.command()
def export(
    *,
    data_dir: SetFolder,
    form: Annotated[Literal["yolo", "coco"], typer.Option("--format", help="Whose layout.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where it is written.")],
) -> None:
    """Write a set, with its split, in the layout that other tools read.

    Example: `hilum-train data export --data set --format coco --out set-coco`
    """
    from training.cli import data  # noqa: PLC0415  # pandas, only when needed

    raise typer.Exit(data.export(data=data_dir, form=form, out=out))


def _shares(valid: float, test: float) -> tuple[float, float, float]:
    if valid + test >= 1:
        raise typer.BadParameter("--valid and --test leave nothing to train on")
    return 1 - valid - test, valid, test


@data.command()
def statistics(
    annotations: Annotated[Path, typer.Option(metavar="CSV", help="VinDr-CXR's train.csv.")],
    out: Annotated[Path, typer.Option(metavar="JSON", help="Where the aggregates are written.")],
) -> None:
    """Aggregate the readers' boxes: how often, where, how large, what together.

    Example: `hilum-train data statistics --annotations vinbigdata-train.csv.gz --out boxes.json`
    """
    from training.cli import synthetic  # noqa: PLC0415  # pandas, only when needed

    raise typer.Exit(synthetic.statistics(annotations=annotations, out=out))


@data.command()
def lung_shapes(
    masks: Annotated[Path, typer.Option(metavar="DIR|ZIP", help="Lung masks, frontal views.")],
    out: Annotated[Path, typer.Option(metavar="JSON", help="Where the shape model is written.")],
) -> None:
    """Aggregate lung outlines into the shape model that chests are painted with.

    Example: `hilum-train data lung-shapes --masks semantic_masks_v7labs_lungs.zip --out lungs.json`
    """
    from training.cli import synthetic  # noqa: PLC0415  # OpenCV, only when needed

    raise typer.Exit(synthetic.lung_shapes(masks=masks, out=out))
