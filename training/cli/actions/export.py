"""The commands `export`, `quantize`, `tensorrt` and `parity`: run a step, print its result."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from training.cli.console import exit_status, print_line, progress_bars, stderr
from training.config import Config, load_config
from training.errors import TrainingError
from training.evaluation.parity import ParityResult, VariantParity
from training.export.artifacts import ExportArtifacts
from training.workflow import parity_check, quantization
from training.workflow.export import FOLDER, compile_engines, export_graphs


@exit_status
def export(*, config: Path) -> None:
    """Write the float graphs."""
    settings = load_config(config)
    with progress_bars() as on_progress:
        made = export_graphs(settings, on_progress)
    _print_files(settings, made)


@exit_status
def quantize(*, config: Path, accuracy_control: str | None) -> None:
    """Add the INT8 graphs."""
    settings = load_config(config)
    if accuracy_control is not None:
        export_settings = settings.export.model_copy(
            update={"max_drop": _parse_max_drop(accuracy_control)}
        )
        settings = settings.model_copy(update={"export": export_settings})
    with progress_bars() as on_progress:
        made = quantization.quantize_graphs(settings, on_progress)
    _print_files(settings, made)
    calibration = made.manifest.calibration
    if calibration and calibration.drop is not None:
        left = ", ".join(calibration.kept_float) or "none"
        print_line(f"mAP@0.5 fell by {calibration.drop:.4f}; convolutions left float: {left}")


@exit_status
def tensorrt(*, config: Path, capabilities: list[str]) -> None:
    """Add engines that TensorRT compiles for GPUs."""
    settings = load_config(config)
    with progress_bars() as on_progress:
        made = compile_engines(settings, capabilities, on_progress)
    table = Table("variant", "capability", "layers", "convolutions take", "MB", "")
    for it in made.manifest.inspections:
        kinds = ", ".join(f"{n} {kind}" for kind, n in it.convolutions.items())
        megabytes = f"{it.size_bytes / 1e6:.1f}"
        table.add_row(
            it.variant,
            it.capability,
            str(it.layers),
            kinds,
            megabytes,
            it.exclusion_reason or "shipped",
        )
    stderr.print(table)
    print_line("Compiled and inspected, not run: running needs a GPU. See docs/tensorrt.md.")


@exit_status
def parity(*, config: Path) -> None:
    """Compare torch with every variant; a drop beyond a declared bound is an error."""
    settings = load_config(config)
    path = settings.out / parity_check.PARITY
    try:
        with progress_bars() as on_progress:
            result = parity_check.check_parity(settings, on_progress)
    finally:
        # The measurements are shown also where a bound is not kept.
        if path.is_file():
            print_line(f"result: {path}")
    stderr.print(_table(result))


def _table(result: ParityResult) -> Table:
    table = Table("variant", "mAP@0.5 down", "95%", "largest sensitivity drop", "box shift px")
    for it in result.variants:
        shift = it.box_shift
        table.add_row(
            it.name,
            f"{it.map50.drop:+.4f}",
            f"{it.map50.low:+.4f} to {it.map50.high:+.4f}",
            _largest_drop(it),
            f"{shift.worst_px:.1f} (median {shift.median_px:.1f}; {shift.lost} of {shift.boxes} "
            "lost)",
        )
    for name, why in result.not_measured.items():
        table.add_row(name, "not measured", why, "", "")
    return table


def _largest_drop(variant: VariantParity) -> str:
    drops = variant.sensitivity.items()
    slug, drop = max(drops, key=lambda pair: pair[1].drop, default=("none", None))
    return f"{drop.drop:+.3f} {slug}" if drop else "no class with a box"


def _parse_max_drop(option: str) -> float:
    name, _, value = option.partition("=")
    try:
        drop = float(value)
    except ValueError:
        drop = -1.0
    if name != "max_drop" or not 0 < drop < 1:
        raise TrainingError(
            f"--accuracy-control {option!r} is not valid",
            hint="State the largest drop of mAP@0.5: --accuracy-control max_drop=0.01",
        )
    return drop


def _print_files(config: Config, made: ExportArtifacts) -> None:
    for name in made.members:
        size = len(made.members[name]) / 1e6
        print_line(f"{config.out / FOLDER / name}: {size:.1f} MB")
