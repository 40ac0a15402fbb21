"""Commands `content-check` and `add-content-check` of hilum-train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_agent.engines.bundle import Bundle
from training.bundle.repack import replace_content_check
from training.cli.console import exit_status, progress_bars, stderr
from training.content_check import train as content
from training.content_check.network import ContentTrainingConfig
from training.content_check.report import format_card_section, format_report, load_other_images
from training.content_check.train import TrainingPlan
from training.data.atomic_files import replace_files


@exit_status
def train_content_check(
    *, out: Path, radiographs: Path, others: Sequence[Path], tables: Path | None, seed: int
) -> None:
    """Train a content check, write it and its tables."""
    plan = TrainingPlan(radiographs, seed=seed, config=ContentTrainingConfig(seed=seed))
    with progress_bars() as on_progress:
        trained = content.train_content_check(plan, on_progress)
    content.save_files(
        content.export_files(
            trained.network, trained.thresholds, format_card_section(trained, plan)
        ),
        out,
    )
    text = format_report(trained, load_other_images(others))
    if tables is not None:
        with replace_files(tables.parent) as place:
            place(tables.name).write_text(text, encoding="utf-8")
    stderr.print(text, markup=False)


@exit_status
def add_content_check(*, bundle: Path, content_check: Path, version: str, out: Path) -> None:
    """Pack a bundle again with a content check."""
    made = replace_content_check(
        Bundle.open(bundle), content.load_files(content_check), version, out
    )
    stderr.print(f"{made.path}: {made.digest}", markup=False)
