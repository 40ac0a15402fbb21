"""What `hilum-train data` does: call, show progress, say what came of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from training.cli.console import bars, reported, stderr
from training.data import exports, import_set, quality_report, splits, tables
from training.data.atomic_files import replace_files
from training.data.import_set import ImportOptions
from training.data.tables import Tables
from training.errors import TrainingError

Format = Literal["yolo", "coco"]

_REASONS: Final = 5


@reported
def vindr(wanted: ImportOptions) -> None:
    """Import a set and report on it."""
    with bars() as told:
        imported = import_set.import_dataset(wanted, told)
        told("report", 0, 1)
        report = quality_report.render_report(imported, wanted.out)
        tables.write_tables(imported, wanted.out, report)
        told("report", 1, 1)
    _summary(imported, wanted.out)


@reported
def split(*, data: Path, seed: int, shares: tuple[float, float, float], new: bool) -> None:
    """Divide a set anew."""
    known = tables.read_tables(data, divided=False)
    if known.split.images and not new:
        raise TrainingError(
            f"{data / splits.FILE} is frozen",
            hint="Figures of another split cannot be compared with those of this. "
            "If that is meant, give --new-split.",
        )
    made = import_set.divide_dataset(known.images, known.fused, seed=seed, shares=shares)
    divided = replace(known, split=made)
    report = quality_report.render_report(divided, data)
    with replace_files(data) as place:
        splits.save_split(made, place(splits.FILE))
        place(tables.REPORT).write_text(report, encoding="utf-8")
    _say(_of_split(divided))


@reported
def report(*, data: Path) -> None:
    """Write the quality report of a set anew."""
    text = quality_report.render_report(tables.read_tables(data), data)
    with replace_files(data) as place:
        place(tables.REPORT).write_text(text, encoding="utf-8")
    _say(f"report: {data / tables.REPORT}")


@reported
def export(*, data: Path, form: Format, out: Path) -> None:
    """Write a set in another tool's layout."""
    with bars() as told:
        count = exports.EXPORTERS[form](data, out, lambda done, total: told("export", done, total))
    _say(f"{count} images: {out}")


def _summary(imported: Tables, folder: Path) -> None:
    images, boxes = imported.images, imported.readers["x_min"].notna().sum()
    _say(
        f"{len(images):,} images, {imported.readers['rad_id'].nunique()} reader(s), "
        f"{boxes:,} boxes; {len(imported.fused):,} findings after fusion"
    )
    if len(imported.rejected):
        _say(f"left out: {len(imported.rejected):,}", style="yellow")
        for why, rows in list(imported.rejected.groupby("why"))[:_REASONS]:
            first = rows.iloc[0]
            where = f"{first['source']}, row {first['row']}" if first["row"] else first["source"]
            _say(f"  {len(rows):,} x {why} (the first: {where})", style="yellow")
    _say(_of_split(imported))
    _say(f"report: {folder / tables.REPORT}")


def _of_split(imported: Tables) -> str:
    sizes = ", ".join(f"{len(ids):,} {name}" for name, ids in imported.split.images.items())
    return f"split: {sizes}; digest {imported.split.digest}"


def _say(text: str, *, style: str | None = None) -> None:
    stderr.print(text, markup=False, soft_wrap=True, highlight=False, style=style)
