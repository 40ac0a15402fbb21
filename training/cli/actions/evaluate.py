"""Runs `hilum-train evaluate`: checks the options, shows progress, prints the metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rich.table import Table

from training.cli.console import exit_status, progress_bars, stderr
from training.cli.evaluate_options import EvaluateOptions
from training.errors import TrainingError
from training.evaluation.operating_points import ThresholdRule
from training.evaluation.results import Evaluation, MetricEstimate
from training.evaluation.run import HTML, JSON, EvaluationRequest, WeightsFile, run_evaluation

_SHOWN: Final = (
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
_TARGETS: Final = "evaluation.json lists points for this split under operating_point_targets."


@exit_status
def evaluate(options: EvaluateOptions) -> None:
    """Evaluate a bundle or weights; a rule that fails is an error after all files are written."""
    _check(options)
    request = EvaluationRequest(
        subject=options.bundle
        or WeightsFile(
            Path(options.weights or ""), options.architecture, options.input_size, options.device
        ),
        split=options.split,
        out=options.out,
        data=options.data,
        variant=options.variant,
        baseline=options.baseline,
        baseline_variant=options.baseline_variant,
        rules=options.rules,
        choose_on=options.choose_on,
        points=ThresholdRule(options.false_positives, options.sensitivity),
        resamples=options.resamples,
        seed=options.seed,
        workers=options.workers,
    )
    with progress_bars() as on_progress:
        evaluation = run_evaluation(request, on_progress)
    stderr.print(_table(evaluation))
    stderr.print(f"{options.out / JSON}, {options.out / HTML}", markup=False, soft_wrap=True)
    _check_acceptance(evaluation)


def _check(options: EvaluateOptions) -> None:
    """Refuse options that exclude each other.

    Raises:
        TrainingError: the message names the options.
    """
    if (options.bundle is None) == (options.weights is None):
        raise TrainingError("name what to evaluate: --bundle or --weights, one of them")
    if options.weights is not None and options.variant is not None:
        raise TrainingError("--variant is for a bundle; weights have no variants")
    if options.false_positives is not None and options.sensitivity is not None:
        raise TrainingError("points have one target: --false-positives or --sensitivity, not both")
    if options.bundle is not None:
        for option, value in (
            ("--choose-on", options.choose_on),
            ("--sensitivity", options.sensitivity),
            ("--false-positives", options.false_positives),
        ):
            if value is not None:
                raise TrainingError(
                    f"{option} is for weights; a bundle has operating points of its own",
                    hint=_TARGETS,
                )
    if options.baseline_variant is not None and options.baseline is None:
        raise TrainingError("--baseline-variant belongs to a --baseline, which is not given")
    if options.choose_on is not None and options.data is None:
        raise TrainingError("--choose-on names a split of --data, which is not given")


def _table(evaluation: Evaluation) -> Table:
    baseline = evaluation.baseline
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column("95% interval")
    if baseline is not None:
        table.add_column("difference from the baseline")
    for name in _SHOWN:
        row = [name, *_format(evaluation.metrics[name])]
        if baseline is not None:
            row.append(" ".join(_format(baseline.differences[name])))
        table.add_row(*row)
    return table


def _format(estimate: MetricEstimate | None) -> tuple[str, str]:
    if estimate is None:
        return "-", "no example"
    return f"{estimate.value:z.3f}", f"{estimate.low:z.3f} to {estimate.high:z.3f}"


def _check_acceptance(evaluation: Evaluation) -> None:
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
