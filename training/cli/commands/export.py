"""Commands that turn trained weights into graphs: `export`, `quantize`, `tensorrt`, `parity`."""

from __future__ import annotations

from typing import Annotated

import typer

from training.cli.options import ConfigOption

app = typer.Typer()


@app.command()
def export(*, config: ConfigOption) -> None:
    """Write the trained weights as graphs: OpenVINO IR in FP32 (and BF16), ONNX in FP32 and FP16.

    Example: `hilum-train export --config run.yaml`
    """
    from training.cli.actions import export  # noqa: PLC0415 - torch

    raise typer.Exit(export.export(config=config))


@app.command()
def quantize(
    *,
    config: ConfigOption,
    accuracy_control: Annotated[
        str | None,
        typer.Option(
            metavar="max_drop=X",
            help="Keep operations of OpenVINO's INT8 IR in float until mAP@0.5 on the validation "
            "split drops by at most X. The INT8 ONNX graph is not affected.",
        ),
    ] = None,
) -> None:
    """Add INT8 graphs, OpenVINO IR and ONNX, calibrated on images of the frozen split.

    Example: `hilum-train quantize --config run.yaml --accuracy-control max_drop=0.01`
    """
    from training.cli.actions import export  # noqa: PLC0415 - torch and NNCF

    raise typer.Exit(export.quantize(config=config, accuracy_control=accuracy_control))


@app.command()
def tensorrt(
    *,
    config: ConfigOption,
    capability: Annotated[
        list[str] | None,
        typer.Option(
            metavar="8.9",
            help="Compute capability of a GPU; may be given several times. "
            "[default: the configuration's]",
        ),
    ] = None,
) -> None:
    """Compile INT8 and FP16 engines for GPUs and report on them. Needs no GPU.

    Example: `hilum-train tensorrt --config run.yaml --capability 8.6 --capability 8.9`
    """
    from training.cli.actions import export  # noqa: PLC0415 - TensorRT

    raise typer.Exit(export.tensorrt(config=config, capabilities=capability or []))


@app.command()
def parity(*, config: ConfigOption) -> None:
    """Compare every exported variant with torch on the frozen split, within declared bounds.

    The exit status is 1 where a bound is not kept; no bundle is made then.

    Example: `hilum-train parity --config run.yaml`
    """
    from training.cli.actions import export  # noqa: PLC0415 - torch

    raise typer.Exit(export.parity(config=config))
