"""Acceptance rules: bounds on metrics, stated in a file before the evaluation.

    rules:
      - {metric: map50, at_least: 0.3, on: low}
      - {metric: false_positives, at_most: 1.5}
      - {metric: difference/map50, at_least: -0.01}

`on` selects the number that must keep the bound: the `low` or `high` end of the interval, or the
`value`. By default it is the end at which the rule is hardest to keep. A metric that is undefined
for the set fails its rule.
"""

from __future__ import annotations

import math
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.errors import TrainingError
from training.evaluation.results import MetricEstimate, Metrics, RuleResult


class Rule(BaseModel):
    """One bound on one metric."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    at_least: float | None = Field(None, allow_inf_nan=False)
    at_most: float | None = Field(None, allow_inf_nan=False)
    on: Literal["low", "value", "high"] | None = None

    @model_validator(mode="after")
    def _has_one_bound(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("a rule has one bound: at_least or at_most")
        return self

    @property
    def end(self) -> Literal["low", "value", "high"]:
        """Return the number of the estimate that must keep the bound."""
        return self.on or ("low" if self.at_least is not None else "high")

    def __str__(self) -> str:
        bound = f"at least {self.at_least:g}" if self.at_least is not None else ""
        return f"{self.metric} {bound or f'at most {self.at_most:g}'} on {self.end}"

    def apply(self, estimate: MetricEstimate | None) -> RuleResult:
        """Return the result of the rule; an undefined metric fails."""
        if estimate is None:
            outcome, passed = "undefined for this set: no example", False
        else:
            end = getattr(estimate, self.end)
            passed = (
                (-math.inf if self.at_least is None else self.at_least)
                <= end
                <= (math.inf if self.at_most is None else self.at_most)
            )
            outcome = f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"
        return RuleResult(
            rule=str(self), metric=self.metric, passed=passed, estimate=estimate, outcome=outcome
        )


class Rules(BaseModel):
    """The rules of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: tuple[Rule, ...] = Field(min_length=1)


def load_rules(path: Path) -> Rules:
    """Read the rules of a file.

    Raises:
        TrainingError: the file is absent, is not YAML, or has no rule or an invalid one; the
            message names file and rule.
    """
    try:
        # The base loader reads scalars as text; the safe one would read the key `on` as true.
        content = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)  # noqa: S506
    except OSError as error:
        raise TrainingError(f"cannot read the rules {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path} is not YAML: {error}") from error
    try:
        return Rules.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(_describe_fault(fault["loc"], fault["msg"]) for fault in error.errors())
        raise TrainingError(
            f"{path}: {faults}", hint="A rule reads {metric: map50, at_least: 0.3, on: low}."
        ) from error


def _describe_fault(place: tuple[int | str, ...], message: str) -> str:
    parts = [f"rule {part + 1}" if isinstance(part, int) else part for part in place]
    parts = parts[1:] if len(parts) > 1 and parts[0] == "rules" else parts
    return f"{', '.join(parts) or 'the whole file'}: {message.removeprefix('Value error, ')}"


def check_metric_names(rules: Rules, known: Metrics, path: Path) -> None:
    """Check that every rule names a metric of the evaluation.

    Raises:
        TrainingError: a metric is unknown; the message names the nearest known one.
    """
    for number, rule in enumerate(rules.rules, start=1):
        if rule.metric not in known:
            near = get_close_matches(rule.metric, known, n=1)
            also = (
                " A difference needs a baseline: --baseline, or in a configuration "
                "evaluate.baseline or bundle.replaces."
                if rule.metric.startswith("difference/")
                else ""
            )
            raise TrainingError(
                f"{path}: rule {number}: there is no metric {rule.metric!r}"
                + (f"; did you mean {near[0]!r}?" if near else "."),
                hint=f"The names are in evaluation.json and docs/evaluation.md.{also}",
            )


def apply_rules(rules: Rules, metrics: Metrics) -> tuple[RuleResult, ...]:
    """Return the result of each rule, in the order of the rules."""
    return tuple(rule.apply(metrics[rule.metric]) for rule in rules.rules)
