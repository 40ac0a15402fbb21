"""The reports that training writes, opened from a file in a browser without network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.support.system.browser import chromium
from tests.support.training.annotated import make_studies
from tests.support.training.exported_runs import exportable
from tests.support.training.models import random_detector
from training.cli.main import app
from training.config import load_config
from training.data import tables
from training.evaluation.run import HTML
from training.synthetic import dicom_studies
from training.workflow.stages import evaluate

pytestmark = [pytest.mark.service("chromium"), pytest.mark.training, pytest.mark.slow]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = load_config(exportable(tmp_path_factory.mktemp("evaluated"), random_detector()))
    evaluate(config)
    return config.out / "evaluation" / HTML


@pytest.fixture(scope="module")
def quality(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_studies(tmp_path_factory.mktemp("studies"), 16)
    out = tmp_path_factory.mktemp("imported") / "set"
    arguments = ["data", "vindr", "--annotations", str(made / dicom_studies.TABLE), "--images"]
    arguments += [str(made / "studies"), "--allow-absent-classes", "--workers", "1"]
    app([*arguments, "--valid", "0.2", "--test", "0.2", "--out", str(out)], standalone_mode=False)
    return out / tables.REPORT


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("report", ["evaluation", "quality"])
def test_a_report_is_complete_without_any_other_file(
    browser: Browser, request: pytest.FixtureRequest, report: str, width: int
) -> None:
    path: Path = request.getfixturevalue(report)
    page = browser.new_page(viewport={"width": width, "height": 800})
    errors: list[str] = []
    requested: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    page.goto(path.as_uri())
    expect(page.locator("h1")).to_be_visible()
    assert page.locator("h2").count() >= 3
    assert page.locator("svg, img").count() >= 3
    widths = page.locator("img").evaluate_all("all => all.map(it => it.naturalWidth)")
    assert all(widths)
    assert errors == []
    assert [url for url in requested if not url.startswith(("data:", path.as_uri()))] == []
    beyond = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert beyond <= 0, "the page is wider than the window"
    page.close()
