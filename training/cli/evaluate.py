"""What `hilum-train evaluate` does: check what was asked for, show progress, say the figures."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rich.table import Table

from training.cli.console import bars, reported, stderr
from training.errors import TrainingError
from training.evaluation.operating_points import ThresholdRule
from training.evaluation.results import Evaluation, MetricEstimate
from training.evaluation.run import HTML, JSON, EvaluationRequest, WeightsFile, run_evaluation

_SAID: Final = (
    "map50",
    "map40",
    "map50_95",
    "froc/mean",
    "auroc/mean",
    "auroc/any",
    "sensitivity",
    "false_positives",
    "image_specificity",
    "ece",
)
_AIMS: Final = (
    "evaluation.json lists, under `operating_point_targets`, the points that this split would give."
)


@reported
def evaluate(
    *,
    bundle: Path | None,
    weights: Path | None,
    architecture: str,
    input_size: int | None,
    device: str,
    split: str,
    data: Path | None,
    variant: str | None,
    baseline: Path | None,
    baseline_variant: str | None,
    rules: Path | None,
    choose_on: str | None,
    false_positives: float | None,
    sensitivity: float | None,
    resamples: int,
    seed: int,
    workers: int,
    out: Path,
) -> None:
    """Evaluate a bundle or weights; a rule that fails is an error, after all is written."""
    if (bundle is None) == (weights is None):
        raise TrainingError("name what to evaluate: --bundle or --weights, one of them")
    if weights is not None and variant is not None:
        raise TrainingError("--variant is of a bundle; weights have none")
    if bundle is not None and choose_on is not None:
        raise TrainingError(
            "--choose-on is for weights; a bundle brings its own operating points",
            hint=_AIMS,
        )
    if false_positives is not None and sensitivity is not None:
        raise TrainingError("points have one aim: --false-positives or --sensitivity, not both")
    if bundle is not None and (false_positives is not None or sensitivity is not None):
        aim = "--sensitivity" if false_positives is None else "--false-positives"
        raise TrainingError(
            f"{aim} is for weights; a bundle brings its own operating points", hint=_AIMS
        )
    if baseline_variant is not None and baseline is None:
        raise TrainingError("--baseline-variant is of a --baseline, which is not given")
    if choose_on is not None and data is None:
        raise TrainingError("--choose-on names a split of --data, which is not given")
    subject = bundle or WeightsFile(Path(weights or ""), architecture, input_size, device)
    request = EvaluationRequest(
        subject=subject,
        split=split,
        out=out,
        data=data,
        variant=variant,
        baseline=baseline,
        baseline_variant=baseline_variant,
        rules=rules,
        choose_on=choose_on,
        points=ThresholdRule(false_positives, sensitivity),
        resamples=resamples,
        seed=seed,
        workers=workers,
    )
    with bars() as told:
        evaluation = run_evaluation(request, told)
    stderr.print(_table(evaluation))
    stderr.print(f"{out / JSON}, {out / HTML}", markup=False, soft_wrap=True)
    _judge(evaluation)


def _table(evaluation: Evaluation) -> Table:
    compared = evaluation.baseline
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column("95% interval")
    if compared is not None:
        table.add_column("less the baseline")
    for name in _SAID:
        row = [name, *_told(evaluation.metrics[name])]
        if compared is not None:
            row.append(" ".join(_told(compared.differences[name])))
        table.add_row(*row)
    return table


def _told(figure: MetricEstimate | None) -> tuple[str, str]:
    if figure is None:
        return "-", "no example"
    return f"{figure.value:z.3f}", f"{figure.low:z.3f} to {figure.high:z.3f}"


def _judge(evaluation: Evaluation) -> None:
    """Check the results of the acceptance rules.

    Raises:
        TrainingError: a rule fails; the message names each with its value and interval.
    """
    results = evaluation.acceptance or ()
    failed = [result for result in results if not result.passed]
    if failed:
        outcomes = "; ".join(f"{result.rule}: {result.outcome}" for result in failed)
        raise TrainingError(f"{len(failed)} of {len(results)} rules fail: {outcomes}")
    if results:
        stderr.print(f"all {len(results)} acceptance rules pass")
