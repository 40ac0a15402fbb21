"""The command `evaluate`."""

from __future__ import annotations

import typer

from training.cli.evaluate_options import EvaluateOptions
from training.cli.options import command_from_options

app = typer.Typer()


def _run(options: EvaluateOptions) -> int:
    from training.cli.actions import evaluate  # noqa: PLC0415 - torch

    return evaluate.evaluate(options)


evaluate = app.command("evaluate")(
    command_from_options(
        EvaluateOptions,
        _run,
        """Measure a bundle or weights on a labelled split, with intervals. Writes JSON and HTML.

    Example: `hilum-train evaluate --bundle a.bundle --data SET --split test --rules rules.yaml
    --out /tmp/evaluation`
    """,
    )
)
