"""`hilum-train evaluate`, through a real engine on pictures that paint its very outputs."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner
from ultralytics.nn.tasks import DetectionModel

from hilum.catalog import CATALOG
from hilum.manifest import EngineVariant
from tests.support.engines.bundles import VARIANT, contents, manifest, pack, picture
from training.cli.main import app
from training.data.splits import Split
from training.evaluation.results import Evaluation

pytestmark = pytest.mark.training

BOX = (30, 33, 50, 63)
SHOWN = (8, 204, (40, 48, 20, 30))
"""A nodule or mass of score 0.8 at that box."""
ELSEWHERE = (8, 230, (70, 20, 12, 12))
FAINT = (8, 100, (40, 48, 20, 30))

Said = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Said:
    def ran(*arguments: str | Path) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, (result.output + capfd.readouterr().err).replace("\n", " ")

    return ran


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(tmp_path_factory.mktemp("bundle") / "a.bundle", contents())


@pytest.fixture(scope="module")
def stricter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with an operating point that its faint findings do not reach."""
    members = contents()
    (engine,) = manifest(members).engines
    points = {finding.slug: 0.85 for finding in CATALOG}
    strict = EngineVariant(**{**engine.model_dump(), "operating_points": points})
    manifest_bytes = manifest(members, version="0.0.2", engines=(strict,)).to_bytes()
    return pack(tmp_path_factory.mktemp("bundle") / "b.bundle", members, manifest_bytes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images: four of the split `test`, of which one shows nothing; an empty `train`."""
    folder = tmp_path_factory.mktemp("set")
    (folder / "images").mkdir()
    shown = [(SHOWN,), (SHOWN, ELSEWHERE), (FAINT,), (), (SHOWN,), (SHOWN,)]
    for k, findings in enumerate(shown):
        cv2.imwrite(str(folder / "images" / f"{k}.png"), picture(*findings))
    with (folder / "images.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["image_id", "background", "unknown", "patient_id", "sex"])
        writer.writerows([k, "painted", "", f"P{k}", "FM"[k % 2]] for k in range(len(shown)))
    with (folder / "annotations.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["image_id", "class_name", "class_id", "x_min", "y_min", "x_max", "y_max"])
        writer.writerows([k, "Nodule/Mass", 8, *BOX] for k in range(len(shown)) if shown[k])
    split = Split(0, {"train": (), "valid": ("4", "5"), "test": ("0", "1", "2", "3")})
    (folder / "split.json").write_text(json.dumps(split.to_document()))
    return folder


def read(out: Path) -> Evaluation:
    return Evaluation.model_validate_json((out / "evaluation.json").read_bytes())


class Page(HTMLParser):
    """Counts tags, and what a page would fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.fetched: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        links = [value or "" for name, value in attrs if name in {"href", "src"}]
        self.fetched += [link for link in links if not link.startswith("data:")]


def test_a_bundle_on_a_split(run: Said, bundle: Path, data: Path, tmp_path: Path) -> None:
    status, output = run(
        "--bundle", bundle, "--data", data, "--split", "test", "--out", tmp_path, "--resamples", 50
    )
    assert status == 0, output
    found = read(tmp_path)
    assert (found.subject.kind, found.subject.engine) == ("bundle", VARIANT)
    assert (found.data.images, found.data.boxes, found.data.patients) == (4, 3, 4)
    assert found.data.split_digest is not None
    values = {name: figure.value for name, figure in found.metrics.items() if figure}
    # Three boxes, two of them above 0.5; one false mark, the surest of all, in four images.
    assert values["sensitivity"] == pytest.approx(2 / 3, abs=1e-6)
    assert values["false_positives"] == 0.25
    assert values["image_specificity"] == 1.0
    assert values["froc/0.25"] == 1.0
    assert values["froc/0.125"] == 0.0
    assert values["map50"] == pytest.approx(3 / 4, abs=1e-6)
    assert values["auroc/nodule_mass"] == 1.0
    assert {(g.fact, g.value) for g in found.subgroups} == {("sex", "F"), ("sex", "M")}


def test_the_page_stands_alone(run: Said, bundle: Path, data: Path, tmp_path: Path) -> None:
    run("--bundle", bundle, "--data", data, "--split", "test", "--out", tmp_path)
    html = (tmp_path / "evaluation.html").read_text()
    page = Page(html)
    assert not page.fetched
    assert page.tags["svg"] > 8
    assert page.tags["image"] == 2
    assert not re.search(r"\bnan\b|None", html)
    assert "no example" in html


def test_beside_a_baseline(
    run: Said, bundle: Path, stricter: Path, data: Path, tmp_path: Path
) -> None:
    status, output = run(
        *("--bundle", bundle, "--baseline", stricter, "--data", data, "--split", "test"),
        *("--out", tmp_path, "--resamples", 50),
    )
    assert status == 0, output
    beside = read(tmp_path).baseline
    assert beside is not None
    assert beside.subject.version == "0.0.2"
    same, other = beside.differences["map50"], beside.differences["sensitivity"]
    assert same is not None
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert other is not None
    assert other.value == pytest.approx(2 / 3, abs=1e-6)
    assert "Comparison with the baseline" in (tmp_path / "evaluation.html").read_text()


def test_weights_with_points_of_another_split(
    run: Said, network: DetectionModel, data: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(network.state_dict(), weights)
    status, output = run(
        *("--weights", weights, "--input-size", 64, "--data", data, "--split", "test"),
        *("--choose-on", "valid", "--out", tmp_path / "out", "--resamples", 20),
    )
    assert status == 0, output
    found = read(tmp_path / "out")
    assert found.subject.kind == "weights"
    assert found.method.points_from.startswith("chosen on valid")
    assert set(found.points) == {finding.slug for finding in CATALOG}


@pytest.mark.slow
def test_weights_with_points_for_a_stated_sensitivity(
    run: Said, network: DetectionModel, data: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(network.state_dict(), weights)
    usual = ("--weights", weights, "--input-size", 64, "--data", data, "--split", "test")
    usual = (*usual, "--choose-on", "valid", "--resamples", 10)
    points = {}
    for aim in (("--sensitivity", 1), ("--false-positives", 0.05), ()):
        status, output = run(*usual, *aim, "--out", tmp_path / "out")
        assert status == 0, output
        found = read(tmp_path / "out")
        points[aim] = found.points
        wanted = "a sensitivity of 1 per class" if "--sensitivity" in aim else "at most 0.05 false"
        assert f"chosen on valid for {wanted}" in found.method.points_from
    lowest, *rated = (of["nodule_mass"] for of in points.values())
    assert rated[0] == rated[1]
    assert lowest <= rated[0]
    del points["--sensitivity", 1]["nodule_mass"], points[()]["nodule_mass"]
    assert points["--sensitivity", 1] == points[()]
    status, output = run(*usual, "--sensitivity", 0.9, "--false-positives", 0.1, "--out", tmp_path)
    assert status == 1
    assert "points have one target: --false-positives or --sensitivity, not both" in output


def test_weights_that_went_astray_are_said(
    run: Said, network: DetectionModel, data: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "astray.pt"
    state = {name: value.clone() for name, value in network.state_dict().items()}
    state["model.0.conv.weight"][:] = float("nan")
    torch.save(state, weights)
    usual = ("--weights", weights, "--input-size", 64, "--split", data, "--out", tmp_path / "out")
    status, output = run(*usual)
    assert status == 1
    assert "0.png" in output
    assert "not finite" in output
    status, output = run(*usual, "--device", "abacus")
    assert status == 1
    assert "abacus" in output


def test_a_whole_folder_is_a_split_too(run: Said, bundle: Path, data: Path, tmp_path: Path) -> None:
    status, output = run("--bundle", bundle, "--split", data, "--out", tmp_path, "--resamples", 10)
    assert status == 0, output
    assert read(tmp_path).data.images == 6


def test_the_rule_that_fails_is_named_and_all_is_written(
    run: Said, bundle: Path, data: Path, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "rules:\n"
        "  - {metric: map50, at_least: 0.99, on: value}\n"
        "  - {metric: false_positives, at_most: 5}\n"
        "  - {metric: ap50/ild, at_least: 0.1, on: low}\n"
    )
    status, output = run(
        *("--bundle", bundle, "--data", data, "--split", "test"),
        *("--rules", rules, "--out", tmp_path / "out"),
    )
    assert status == 1
    assert re.search(r"2 of 3 rules fail: map50 at least 0.99 on value: 0\.75\d* \[", output)
    assert "ap50/ild at least 0.1 on low: undefined for this set" in output
    results = read(tmp_path / "out").acceptance
    assert results is not None
    assert [result.passed for result in results] == [False, True, False]
    assert "2 of 3 rules fail" in (tmp_path / "out" / "evaluation.html").read_text()

    rules.write_text("rules: [{metric: map50, at_least: 0.1, on: low}]")
    status, output = run(
        *("--bundle", bundle, "--data", data, "--split", "valid"),
        *("--rules", rules, "--out", tmp_path / "out"),
    )
    assert status == 0, output
    assert "all 1 acceptance rules pass" in output


def test_what_is_wrong_is_said_and_what_was_there_stays(
    run: Said, bundle: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "evaluation.json").write_text("earlier")
    broken = tmp_path / "broken.bundle"
    broken.write_bytes(bundle.read_bytes()[:-100])
    cut = tmp_path / "cut.pt"
    cut.write_bytes(b"PK nothing")
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules: [{metric: map5, at_least: 0.3}]")
    usual = ("--bundle", bundle, "--data", data, "--split", "test")
    for arguments, says in (
        (("--data", data, "--split", "test"), "--bundle or --weights"),
        ((*usual, "--weights", cut), "--bundle or --weights"),
        ((*usual[:-1], "train"), "is empty"),
        ((*usual[:-1], "exam"), "no split 'exam'"),
        (("--bundle", bundle, "--split", tmp_path), "images.csv"),
        (("--bundle", broken, *usual[2:]), "broken.bundle"),
        (("--bundle", tmp_path / "no.bundle", *usual[2:]), "no.bundle"),
        (("--weights", cut, *usual[2:]), "cut.pt"),
        (("--weights", tmp_path / "no.pt", *usual[2:]), "no.pt"),
        ((*usual, "--variant", "openvino-int4"), "no engine variant"),
        ((*usual, "--baseline", broken), "broken.bundle"),
        ((*usual, "--baseline", bundle, "--baseline-variant", "x"), "no engine variant"),
        ((*usual, "--baseline-variant", "x"), "which is not given"),
        ((*usual, "--choose-on", "valid"), "--choose-on is for weights"),
        ((*usual, "--sensitivity", "0.9"), "--sensitivity is for weights"),
        ((*usual, "--false-positives", "0.1"), "--false-positives is for weights"),
        ((*usual, "--rules", rules), "did you mean 'map50'"),
        ((*usual, "--rules", tmp_path / "no.yaml"), "no.yaml"),
    ):
        status, output = run(*arguments, "--out", out, "--resamples", 10)
        assert status == 1, arguments
        assert says in output, (says, output)
        assert [path.name for path in out.iterdir()] == ["evaluation.json"]
        assert (out / "evaluation.json").read_text() == "earlier"


def test_an_image_that_cannot_be_read_ends_it(
    run: Said, bundle: Path, data: Path, tmp_path: Path
) -> None:
    for name in ("images.csv", "annotations.csv"):
        (tmp_path / name).write_bytes((data / name).read_bytes())
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "0.png"), np.zeros((96, 96), np.uint8))
    status, output = run("--bundle", bundle, "--split", tmp_path, "--out", tmp_path / "out")
    assert status == 1
    assert "1.png" in output


def test_help_has_an_example(run: Said) -> None:
    status, output = run("--help")
    assert status == 0
    assert "Example" in output
