"""What `hilum-train bundle`, `publish` and `all` do: call, show progress, say what came of it."""

from __future__ import annotations

from pathlib import Path

from edge_agent.engines.bundle import Bundle
from training.cli.console import reported
from training.cli.train import alone, say
from training.config import load_config
from training.release.publish import publish as publish_bundle
from training.workflow import make_bundle, run_all


@reported
def bundle(*, config: Path) -> None:
    """Pack a run that was exported, proven and evaluated."""
    made = make_bundle.make_bundle(load_config(config))
    say(f"{made.path}: {made.digest}")


@reported
def publish(*, bundle: Path, to: str, model: str, experiment: str, alias: str) -> None:
    """Register a bundle."""
    opened = Bundle.open(bundle)
    published = publish_bundle(opened, to, model=model, experiment=experiment, alias=alias)
    known = "" if published.new else " (was there already)"
    say(f"{published.model} version {published.version}, alias {published.alias}{known}")


@reported
def everything(*, config: Path) -> None:
    """Do all steps that are missing."""
    stated = load_config(config)
    with alone(stated.train.device) as (train, told):
        done = run_all.run_all(stated, train, on_message=say, on_progress=told)
    say(f"{done.bundle.path}: {done.bundle.digest}")
    say(f"Try it: hilum-edge detect --bundle {done.bundle.path} IMAGE")
