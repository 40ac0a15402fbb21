"""What the starter's card tells."""

from __future__ import annotations

import pytest

from hilum.catalog import BY_SLUG
from tests.support.labelled import TWO, entry, finding
from training.errors import TrainingError
from training.evaluation.summary import report


def test_report_counts_marks_on_clear_images() -> None:
    found = [[finding(0, 0.9)], [finding(50, 0.7)]]
    figures = report(TWO, found, points=dict.fromkeys(BY_SLUG, 0.5))
    assert figures.quiet_share == 0.0
    assert figures.marks_per_clear_image == 1.0
    assert figures.per_class["nodule_mass"]["sensitivity_at_point"] == 0.5
    assert set(figures.per_class) == {"nodule_mass"}
    assert report(TWO, [[finding(0, 0.9)], []]).quiet_share == 1.0


def test_a_set_without_a_box_is_refused() -> None:
    with pytest.raises(TrainingError, match="labelled box"):
        report([entry()], [[]])
