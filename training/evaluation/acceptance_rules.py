"""Rules that a figure must keep, stated in a file before anybody has seen the figures.

    rules:
      - {metric: map50, at_least: 0.3, on: low}
      - {metric: false_positives, at_most: 1.5}
      - {metric: difference/map50, at_least: -0.01}

`on` says which end of the interval must keep the bound: `low`, `value` or `high`. Left out, it is
the end where the rule is hardest to keep. What cannot be told keeps no rule.
"""

from __future__ import annotations

import math
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.errors import TrainingError
from training.evaluation.results import Figures, MetricEstimate, RuleResult


class Rule(BaseModel):
    """One bound on one figure."""

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
        """Which end of the interval must keep the bound."""
        return self.on or ("low" if self.at_least is not None else "high")

    def __str__(self) -> str:
        bound = f"at least {self.at_least:g}" if self.at_least is not None else ""
        return f"{self.metric} {bound or f'at most {self.at_most:g}'} on {self.end}"

    def judge(self, figure: MetricEstimate | None) -> RuleResult:
        """Whether the figure keeps the rule; one that cannot be told does not."""
        if figure is None:
            said, passed = "cannot be told from this set: no example", False
        else:
            end = getattr(figure, self.end)
            passed = (
                (-math.inf if self.at_least is None else self.at_least)
                <= end
                <= (math.inf if self.at_most is None else self.at_most)
            )
            said = f"{figure.value:.4f} [{figure.low:.4f}, {figure.high:.4f}]"
        return RuleResult(
            rule=str(self), metric=self.metric, passed=passed, figure=figure, said=said
        )


class Rules(BaseModel):
    """The rules of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: tuple[Rule, ...] = Field(min_length=1)


def load_rules(path: Path) -> Rules:
    """Read rules.

    Raises:
        TrainingError: the file is absent, no YAML, states no rule, or one that cannot be; the
            message names file and rule.
    """
    try:
        # The base loader reads every scalar as text: to the safe one, the key `on` means true.
        stated = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)  # noqa: S506
    except OSError as error:
        raise TrainingError(f"cannot read the rules {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path} is no YAML: {error}") from error
    try:
        return Rules.model_validate(stated)
    except ValidationError as error:
        faults = "; ".join(_said(fault["loc"], fault["msg"]) for fault in error.errors())
        raise TrainingError(
            f"{path}: {faults}", hint="A rule reads {metric: map50, at_least: 0.3, on: low}."
        ) from error


def _said(place: tuple[int | str, ...], message: str) -> str:
    named = [f"rule {part + 1}" if isinstance(part, int) else part for part in place]
    named = named[1:] if len(named) > 1 and named[0] == "rules" else named
    return f"{', '.join(named) or 'the whole'}: {message.removeprefix('Value error, ')}"


def check_names(rules: Rules, known: Figures, path: Path) -> None:
    """Refuse rules on figures that there are not.

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
                f"{path}: rule {number}: there is no figure {rule.metric!r}"
                + (f"; did you mean {near[0]!r}?" if near else "."),
                hint=f"The names are in evaluation.json and docs/evaluation.md.{also}",
            )


def judge(rules: Rules, figures: Figures) -> tuple[RuleResult, ...]:
    """A verdict for each rule, in their order."""
    return tuple(rule.judge(figures[rule.metric]) for rule in rules.rules)
