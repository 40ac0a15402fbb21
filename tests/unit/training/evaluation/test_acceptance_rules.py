"""Rules: read, refused, kept and broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.errors import TrainingError
from training.evaluation.acceptance_rules import apply_rules, check_metric_names, load_rules
from training.evaluation.results import MetricEstimate

FIGURES: dict[str, MetricEstimate | None] = {
    "map50": MetricEstimate(value=0.32, low=0.28, high=0.36),
    "false_positives": MetricEstimate(value=1.2, low=1.0, high=1.6),
    "ap50/ild": None,
}


def rules(folder: Path, *lines: str) -> Path:
    path = folder / "rules.yaml"
    path.write_text("rules:\n" + "".join(f"  - {line}\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("rule", "passed"),
    [
        ("{metric: map50, at_least: 0.3, on: low}", False),
        ("{metric: map50, at_least: 0.3, on: value}", True),
        ("{metric: map50, at_least: 0.35, on: high}", True),
        ("{metric: map50, at_least: 0.28}", True),
        ("{metric: map50, at_least: 0.29}", False),
        ("{metric: false_positives, at_most: 1.5}", False),
        ("{metric: false_positives, at_most: 1.6}", True),
        ("{metric: false_positives, at_most: 1.3, on: value}", True),
        ("{metric: ap50/ild, at_least: 0}", False),
        ("{metric: ap50/ild, at_most: 1}", False),
    ],
)
def test_a_rule_is_kept_at_the_end_it_names_or_the_harder_one(
    tmp_path: Path, rule: str, passed: bool
) -> None:
    (verdict,) = apply_rules(load_rules(rules(tmp_path, rule)), FIGURES)
    assert verdict.passed is passed


def test_a_verdict_names_rule_value_and_interval(tmp_path: Path) -> None:
    path = rules(
        tmp_path,
        "{metric: map50, at_least: 0.3, on: low}",
        "{metric: ap50/ild, at_least: 0.1}",
    )
    broken, undefined = apply_rules(load_rules(path), FIGURES)
    assert broken.rule == "map50 at least 0.3 on low"
    assert broken.outcome == "0.3200 [0.2800, 0.3600]"
    assert undefined.outcome == "undefined for this set: no example"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{metric: map50}", "rule 1: a rule has one bound"),
        ("{metric: map50, at_least: 0.1, at_most: 0.2}", "rule 1: a rule has one bound"),
        ("{metric: map50, at_least: much}", "rule 1, at_least"),
        ("{metric: map50, at_least: .nan}", "rule 1, at_least"),
        ("{metric: map50, atleast: 0.1}", "rule 1, atleast"),
        ("{metric: map50, at_least: 0.1, on: mean}", "rule 1, on"),
    ],
)
def test_a_rule_that_cannot_be_is_named(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(TrainingError) as refused:
        load_rules(rules(tmp_path, line))
    assert says in refused.value.message
    assert "rules.yaml" in refused.value.message


@pytest.mark.parametrize("content", ["", "rules: []", "rules: 3", "- a", "rules: [", "limits: []"])
def test_a_file_without_rules_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(content)
    with pytest.raises(TrainingError, match=r"rules\.yaml"):
        load_rules(path)
    with pytest.raises(TrainingError, match="cannot read the rules"):
        load_rules(tmp_path / "none.yaml")


def test_an_unknown_figure_is_refused_and_the_nearest_named(tmp_path: Path) -> None:
    path = rules(tmp_path, "{metric: map5O, at_least: 0.1}")
    with pytest.raises(TrainingError, match="did you mean 'map50'"):
        check_metric_names(load_rules(path), FIGURES, path)
    path = rules(tmp_path, "{metric: difference/map50, at_least: 0.1}")
    with pytest.raises(TrainingError) as refused:
        check_metric_names(load_rules(path), FIGURES, path)
    assert "--baseline" in refused.value.hint
