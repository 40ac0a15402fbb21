"""The commands of `hilum-train data`: they call, show progress and print a summary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from training.cli.console import exit_status, progress_bars, stderr
from training.data import exports, import_set, quality_report, splits, tables
from training.data.atomic_files import replace_files
from training.data.import_set import ImportOptions
from training.data.tables import Tables
from training.errors import TrainingError

Format = Literal["yolo", "coco"]

_REASONS: Final = 5


@exit_status
def vindr(options: ImportOptions) -> None:
    """Import a data set and report on it."""
    with progress_bars() as on_progress:
        imported = import_set.import_dataset(options, on_progress)
        on_progress("report", 0, 1)
        report = quality_report.render_report(imported, options.out)
        tables.write_tables(imported, options.out, report)
        on_progress("report", 1, 1)
    _print_summary(imported, options.out)


@exit_status
def split(*, data: Path, seed: int, shares: tuple[float, float, float], new: bool) -> None:
    """Divide a data set again."""
    known = tables.read_tables(data, divided=False)
    if known.split.images and not new:
        raise TrainingError(
            f"{data / splits.FILE} is frozen",
            hint="Metrics of another split cannot be compared with those of this one. "
            "To divide again all the same, give --new-split.",
        )
    made = import_set.divide_dataset(known.images, known.fused, seed=seed, shares=shares)
    divided = replace(known, split=made)
    report = quality_report.render_report(divided, data)
    with replace_files(data) as place:
        splits.save_split(made, place(splits.FILE))
        place(tables.REPORT).write_text(report, encoding="utf-8")
    _print(_describe_split(divided))


@exit_status
def report(*, data: Path) -> None:
    """Write the quality report of a data set again."""
    text = quality_report.render_report(tables.read_tables(data), data)
    with replace_files(data) as place:
        place(tables.REPORT).write_text(text, encoding="utf-8")
    _print(f"report: {data / tables.REPORT}")


@exit_status
def export(*, data: Path, form: Format, out: Path) -> None:
    """Write a data set in another tool's layout."""
    with progress_bars() as on_progress:
        count = exports.EXPORTERS[form](data, out, on_progress)
    _print(f"{count} images: {out}")


def _print_summary(imported: Tables, folder: Path) -> None:
    images, boxes = imported.images, imported.readers["x_min"].notna().sum()
    _print(
        f"{len(images):,} images, {imported.readers['rad_id'].nunique()} reader(s), "
        f"{boxes:,} boxes; {len(imported.fused):,} findings after fusion"
    )
    if len(imported.rejected):
        _print(f"left out: {len(imported.rejected):,}", style="yellow")
        for why, rows in list(imported.rejected.groupby("why"))[:_REASONS]:
            first = rows.iloc[0]
            where = f"{first['source']}, row {first['row']}" if first["row"] else first["source"]
            _print(f"  {len(rows):,} x {why} (first: {where})", style="yellow")
    _print(_describe_split(imported))
    _print(f"report: {folder / tables.REPORT}")


def _describe_split(imported: Tables) -> str:
    sizes = ", ".join(f"{len(ids):,} {name}" for name, ids in imported.split.images.items())
    return f"split: {sizes}; digest {imported.split.digest}"


def _print(text: str, *, style: str | None = None) -> None:
    stderr.print(text, markup=False, soft_wrap=True, highlight=False, style=style)
