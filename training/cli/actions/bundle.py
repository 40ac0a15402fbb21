"""Runs `hilum-train bundle`, `publish` and `all`."""

from __future__ import annotations

from pathlib import Path

from edge_agent.engines.bundle import Bundle
from training.cli.actions.train import single_process_trainer
from training.cli.console import exit_status, print_line
from training.config import load_config
from training.release.publish import publish as publish_bundle
from training.workflow import make_bundle
from training.workflow.run_all import run_all as run_stages


@exit_status
def bundle(*, config: Path) -> None:
    """Pack an exported, checked and evaluated run."""
    made = make_bundle.make_bundle(load_config(config))
    print_line(f"{made.path}: {made.digest}")


@exit_status
def publish(
    *, bundle: Path, weights: Path | None, to: str, model: str, experiment: str, alias: str
) -> None:
    """Register a bundle in MLflow."""
    opened = Bundle.open(bundle)
    published = publish_bundle(
        opened, to, model=model, experiment=experiment, alias=alias, weights=weights
    )
    known = "" if published.new else " (already registered)"
    print_line(f"{published.model} version {published.version}, alias {published.alias}{known}")


@exit_status
def run_all(*, config: Path) -> None:
    """Run every stage whose inputs have changed."""
    loaded = load_config(config)
    with single_process_trainer(loaded.train.device) as (train, on_progress):
        result = run_stages(loaded, train, on_message=print_line, on_progress=on_progress)
    print_line(f"{result.bundle.path}: {result.bundle.digest}")
    print_line(f"Try it: hilum-edge detect --bundle {result.bundle.path} IMAGE")
