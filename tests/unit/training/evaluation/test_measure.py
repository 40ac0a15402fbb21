"""The whole document: what is in it, what is null, what two detectors differ by."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from hilum.catalog import BY_SLUG
from tests.support.training.labelled import NODULE, TWO, by_chance, entry, finding
from training.data.labels import Label
from training.errors import TrainingError
from training.evaluation.matching import match_findings
from training.evaluation.measure import MeasuredDetector, Settings, evaluate_detector
from training.evaluation.report.worst_errors import select_worst_errors
from training.evaluation.results import EvaluatedModel, Evaluation
from training.evaluation.subgroups import find_groups

WHO = EvaluatedModel(
    kind="weights", name="a.pt", digest="0" * 64, engine="torch", compute_device="CPU"
)
POINTS = dict.fromkeys(BY_SLUG, 0.3)
QUICK = Settings("test", resamples=20)


def measured(found: list[list]) -> MeasuredDetector:  # type: ignore[type-arg]
    return MeasuredDetector(WHO, POINTS, "given", found)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    entries, found = by_chance(60, 3)
    worse = [findings[::2] for findings in found]
    return evaluate_detector(entries, measured(found), QUICK, measured(worse))


def test_the_document_reads_back_and_holds_no_nan(evaluation: Evaluation) -> None:
    content = evaluation.to_bytes()
    assert Evaluation.model_validate_json(content) == evaluation
    json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} in the document"))


def test_every_interval_holds_its_value(evaluation: Evaluation) -> None:
    figures = [figure for figure in evaluation.named_metrics().values() if figure is not None]
    assert len(figures) > 200
    assert all(figure.low <= figure.value <= figure.high for figure in figures)


def test_names_are_such_as_mlflow_takes(evaluation: Evaluation) -> None:
    names = evaluation.named_metrics()
    assert {"map40", "map50", "map50_95", "froc/0.125", "froc/8", "ap50/ild"} <= set(names)
    assert {"difference/map50", "subgroup/sex/F/map50", "difference/sensitivity/ild"} <= set(names)
    group = evaluation.subgroups[0].model_copy(
        update={"fact": "manufacturer", "value": "Röntgen (A+B)/C"}
    )
    names |= evaluation.model_copy(update={"subgroups": (group,)}).named_metrics()
    assert "subgroup/manufacturer/R_ntgen _A_B__C/map50" in names
    assert all(re.fullmatch(r"[\w./ -]+", name, re.ASCII) for name in names)


def test_a_class_without_an_example_is_null_not_nought() -> None:
    evaluation = evaluate_detector(TWO, measured([[finding(0, 0.9)], []]), QUICK)
    for name in ("ap50", "auroc", "sensitivity", "froc/1"):
        assert evaluation.metrics[f"{name}/ild"] is None
        assert evaluation.metrics[f"{name}/nodule_mass"] is not None
    assert evaluation.data.classes["ild"].boxes == 0
    assert evaluation.operating_point_targets[0].points["ild"] is None
    assert set(evaluation.curves.froc) == {"all", "nodule_mass"}


def test_nothing_to_find_is_said() -> None:
    with pytest.raises(TrainingError, match="test has no labelled box"):
        evaluate_detector([entry()], measured([[]]), QUICK)
    with pytest.raises(TrainingError, match="no image to evaluate"):
        evaluate_detector([], measured([]), QUICK)


def test_a_detector_that_finds_nothing_has_metrics() -> None:
    metrics = evaluate_detector(TWO, measured([[], []]), QUICK).metrics
    for name, value in (
        ("map50", 0.0),
        ("sensitivity", 0.0),
        ("froc/8", 0.0),
        ("image_specificity", 1),
    ):
        figure = metrics[name]
        assert figure is not None
        assert figure.value == value
    assert metrics["ece"] is None


def test_an_aim_that_cannot_be_reached_is_said(evaluation: Evaluation) -> None:
    targets = {
        (target.metric, target.value): target for target in evaluation.operating_point_targets
    }
    reached = targets["sensitivity", 0.8].points["nodule_mass"]
    assert reached is not None
    assert reached.sensitivity is not None
    assert reached.reached is (reached.sensitivity.value >= 0.8)
    rare = targets["false_positives", 0.05].points["nodule_mass"]
    assert rare is not None
    assert rare.false_positives is not None
    assert rare.false_positives.value <= 0.05
    nothing = (
        evaluate_detector(TWO, measured([[], []]), QUICK)
        .operating_point_targets[0]
        .points["nodule_mass"]
    )
    assert nothing is not None
    assert not nothing.reached


def test_subgroups_are_of_facts_that_part_the_images() -> None:
    entries = [
        entry(image_id="a", facts={"sex": "F", "age": "063Y", "view": "PA"}),
        entry(image_id="b", facts={"sex": "M", "age": "17", "view": "PA"}),
        entry(image_id="c", facts={"sex": "F", "age": "11M", "view": "PA"}),
        entry(image_id="d", facts={"age": "92.0", "view": "PA"}),
        entry(image_id="e", facts={"age": "unknown", "view": "PA"}),
    ]
    found = {(group.fact, group.value): group.members.tolist() for group in find_groups(entries)}
    assert found == {
        ("sex", "F"): [True, False, True, False, False],
        ("sex", "M"): [False, True, False, False, False],
        ("age", "0-17"): [False, True, True, False, False],
        ("age", "60-79"): [True, False, False, False, False],
        ("age", "80 and over"): [False, False, False, True, False],
    }


def test_a_subgroups_figures_are_those_of_its_images_alone() -> None:
    entries, found = by_chance(60, 3)
    women = [k for k, e in enumerate(entries) if e.facts["sex"] == "F"]
    whole = evaluate_detector(entries, measured(found), QUICK)
    alone = evaluate_detector(
        [entries[k] for k in women], measured([found[k] for k in women]), QUICK
    )
    (group,) = (g for g in whole.subgroups if (g.fact, g.value) == ("sex", "F"))
    assert group.images == len(women)
    for name, figure in group.metrics.items():
        expected = alone.metrics[name]
        assert figure is not None
        assert expected is not None
        assert figure.value == pytest.approx(expected.value, abs=1e-6), name


def test_the_worst_errors_come_first_one_per_image() -> None:
    sure = Label(NODULE, 0, 0, 10, 10, weight=1.0)
    doubted = replace(sure, weight=0.4)
    entries = [
        entry(doubted, image_id="a"),
        entry(sure, replace(sure, x_min=200, x_max=210), image_id="b"),
        entry(sure, image_id="c"),
        entry(sure, image_id="d"),
    ]
    found = [[], [], [finding(0, 0.2), finding(90, 0.8)], [finding(0, 0.9), finding(50, 0.4)]]
    errors = select_worst_errors(entries, match_findings(entries, found), POINTS)
    assert [(error.kind, error.image) for error in errors] == [
        ("false_negative", 1),
        ("false_negative", 0),
        ("false_negative", 2),
        ("false_positive", 2),
        ("false_positive", 3),
    ]
    assert errors[2].score == pytest.approx(0.2)
    assert errors[3].box == (90, 0, 100, 10)
