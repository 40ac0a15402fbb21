"""`hilum-train export`, `quantize`, `tensorrt` and `parity`: run a step, say what it gave."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from training.cli.console import exit_status, progress_bars, stderr
from training.config import Config, load_config
from training.errors import TrainingError
from training.evaluation.parity import ParityResult, VariantParity
from training.export.artifacts import ExportArtifacts
from training.workflow import export_steps as steps


@exit_status
def export(*, config: Path) -> None:
    """Write the float graphs."""
    stated = load_config(config)
    with progress_bars() as told:
        made = steps.export(stated, told)
    _list_files(stated, made)


@exit_status
def quantize(*, config: Path, accuracy_control: str | None) -> None:
    """Add the INT8 graphs."""
    stated = load_config(config)
    if accuracy_control is not None:
        settings = stated.export.model_copy(update={"max_drop": _max_drop(accuracy_control)})
        stated = stated.model_copy(update={"export": settings})
    with progress_bars() as told:
        made = steps.quantize_graphs(stated, told)
    _list_files(stated, made)
    found = made.record.calibration
    if found and found.drop is not None:
        left = ", ".join(found.left_float) or "none"
        _say(f"mAP@0.5 fell by {found.drop:.4f}; convolutions left float: {left}")


@exit_status
def tensorrt(*, config: Path, capabilities: list[str]) -> None:
    """Add engines for cards."""
    stated = load_config(config)
    with progress_bars() as told:
        made = steps.compile_for_cards(stated, capabilities, told)
    table = Table("variant", "capability", "layers", "convolutions take", "MB", "")
    for it in made.record.inspected:
        kinds = ", ".join(f"{n} {kind}" for kind, n in it.convolutions.items())
        megabytes = f"{it.size_bytes / 1e6:.1f}"
        table.add_row(
            it.variant, it.capability, str(it.layers), kinds, megabytes, it.left_out or "shipped"
        )
    stderr.print(table)
    _say("Compiled and inspected, not run: that takes a card. See docs/tensorrt.md.")


@exit_status
def parity(*, config: Path) -> None:
    """Compare torch with every variant; a bound that is not kept is an error."""
    stated = load_config(config)
    path = stated.out / steps.PARITY
    try:
        with progress_bars() as told:
            result = steps.check_parity(stated, told)
    finally:
        # What was measured is shown also where it fails.
        if path.is_file():
            _say(f"result: {path}")
    stderr.print(_table(result))


def _table(result: ParityResult) -> Table:
    table = Table("variant", "mAP@0.5 down", "95%", "largest sensitivity drop", "box shift px")
    for it in result.variants:
        shift = it.box_shift
        table.add_row(
            it.name,
            f"{it.map50.drop:+.4f}",
            f"{it.map50.low:+.4f} to {it.map50.high:+.4f}",
            _worst(it),
            f"{shift.worst_px:.1f} (median {shift.median_px:.1f}; {shift.lost} of {shift.boxes} "
            "lost)",
        )
    for name, why in result.not_measured.items():
        table.add_row(name, "not measured", why, "", "")
    return table


def _worst(variant: VariantParity) -> str:
    drops = variant.sensitivity.items()
    slug, drop = max(drops, key=lambda pair: pair[1].drop, default=("none", None))
    return f"{drop.drop:+.3f} {slug}" if drop else "no class with a box"


def _max_drop(stated: str) -> float:
    name, _, value = stated.partition("=")
    try:
        drop = float(value)
    except ValueError:
        drop = -1.0
    if name != "max_drop" or not 0 < drop < 1:
        raise TrainingError(
            f"--accuracy-control {stated!r} is not understood",
            hint="State how far mAP@0.5 may fall: --accuracy-control max_drop=0.01",
        )
    return drop


def _list_files(config: Config, made: ExportArtifacts) -> None:
    for name in made.members:
        size = len(made.members[name]) / 1e6
        _say(f"{config.out / steps.FOLDER / name}: {size:.1f} MB")


def _say(line: str) -> None:
    stderr.print(line, markup=False, soft_wrap=True)
