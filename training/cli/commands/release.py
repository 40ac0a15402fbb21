"""Commands that pack and publish bundles: `bundle`, `publish`, `add-content-check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from training.cli.options import ConfigOption

app = typer.Typer()


@app.command()
def bundle(*, config: ConfigOption) -> None:
    """Pack an exported, checked and evaluated run. The same run gives the same bytes.

    No bundle is made if a bound that was declared at the start of the run is not kept.

    Example: `hilum-train bundle --config c.yaml`
    """
    from training.cli.actions import bundle  # noqa: PLC0415 - torch

    raise typer.Exit(bundle.bundle(config=config))


@app.command()
def publish(
    *,
    bundle: Annotated[Path, typer.Option(metavar="BUNDLE", help="The bundle to publish.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="URI", help="MLflow: `http://host:5000`, or `sqlite:///FILE` without a server."
        ),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The run's `weights.pt`, published beside the bundle."),
    ] = None,
    model: Annotated[str, typer.Option(help="Name of the registered model.")] = "hilum",
    experiment: Annotated[str, typer.Option(help="Experiment of its MLflow run.")] = "hilum",
    alias: Annotated[str, typer.Option(help="Alias that moves to this version.")] = "candidate",
) -> None:
    """Register a bundle in MLflow with its metrics and tags; the same bundle stays one version.

    Example: `hilum-train publish --bundle a.bundle --to http://127.0.0.1:5000`
    """
    from training.cli.actions import bundle as bundles  # noqa: PLC0415 - torch

    raise typer.Exit(
        bundles.publish(
            bundle=bundle,
            weights=weights,
            to=to,
            model=model,
            experiment=experiment,
            alias=alias,
        )
    )


@app.command()
def add_content_check(
    *,
    bundle: Annotated[
        Path, typer.Option(metavar="BUNDLE", help="The old bundle, which is not changed.")
    ],
    content_check: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="From `hilum-train content-check`, or a bundle that has one."
        ),
    ],
    version: Annotated[
        str,
        typer.Option(help="Version of the new bundle; a new number if the old was released."),
    ],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="The new bundle.")],
) -> None:
    """Pack a bundle again with a content check; all other members stay byte by byte.

    Example: `hilum-train add-content-check --bundle a.bundle --content-check check.zip
    --version 0.2.0 --out b.bundle`
    """
    from training.cli.actions import content_check as commands  # noqa: PLC0415 - OpenVINO

    raise typer.Exit(
        commands.add_content_check(
            bundle=bundle, content_check=content_check, version=version, out=out
        )
    )
