"""The commands of `hilum-edge`, run in this process with a toy bundle."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import Result
from google.protobuf.json_format import ParseDict
from typer.testing import CliRunner

from edge_agent.cli import detect
from edge_agent.cli.batch import FileOutcome
from edge_agent.cli.main import app
from hilum.v1 import detection_pb2 as pb
from tests.conftest import pydicom_file
from tests.support.agents.tagged import logging_restored, tagged_png, write_toy_bundle
from tests.support.engines.content_checks import bundle_with_content_check


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "toy.bundle")


@pytest.fixture(autouse=True)
def isolated(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HILUM_EDGE__BUNDLE", str(toy))
    monkeypatch.setenv("HILUM_EDGE__CACHE_DIR", str(toy.parent / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    with logging_restored():
        yield


def hilum_edge(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write_image(name: str, data: bytes | None = None) -> Path:
    file = Path(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(tagged_png(200) if data is None else data)
    return file


def parse_response(document: dict[str, object]) -> pb.DetectResponse:
    """Parse a document, which must be the contract's JSON apart from its `file`."""
    return ParseDict({k: v for k, v in document.items() if k != "file"}, pb.DetectResponse())


def test_version() -> None:
    assert hilum_edge("--version").stdout == f"hilum-edge {version('hilum')}\n"


def test_help_lists_the_commands() -> None:
    help_text = hilum_edge("--help")
    assert help_text.exit_code == 0
    for name in ("serve", "detect", "model", "bench", "keys", "audit"):
        assert re.search(rf"^\W*{name}\b", help_text.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    "command",
    [
        "serve",
        "detect",
        "model show",
        "model list",
        "model activate",
        "model revert",
        "model shadow",
        "bench",
        "keys add",
        "keys list",
        "keys remove",
        "audit verify",
        "audit show",
        "audit export",
    ],
)
def test_help_of_every_command_has_examples_one_to_a_line(command: str) -> None:
    help_text = hilum_edge(*command.split(), "--help")
    assert help_text.exit_code == 0
    examples = help_text.stdout.split("For example:")[1].split("─")[0].splitlines()
    assert any(line.strip().startswith(f"hilum-edge {command}") for line in examples)
    assert all(line.count(f"hilum-edge {command}") <= 1 for line in examples)


def test_one_real_radiograph_as_a_table() -> None:
    result = hilum_edge("detect", pydicom_file("RG1_UNCI.dcm"))
    assert result.exit_code == 0
    assert "1841 x 1955 px, dicom, view PA" in result.stdout
    assert "Nodule/Mass" in result.stdout
    assert result.stderr == ""


def test_one_file_as_a_json_document() -> None:
    result = hilum_edge("detect", "--json", write_image("a.png"))
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["file"] == "a.png"
    (finding,) = parse_response(document).findings
    assert (finding.slug, finding.name, finding.concept.value) == (
        "nodule_mass",
        "Nodule/Mass",
        "NODULE_MASS",
    )
    assert finding.score == pytest.approx(200 / 255, abs=1e-4)
    assert finding.box.x_min == pytest.approx(48)


def test_several_files_as_json_lines_in_their_order_with_refusals_between_them() -> None:
    write_image("in/a.png")
    write_image("in/b.png", b"no image at all, though its name says so")
    write_image("in/c.png", b"")
    write_image("in/d.png")
    result = hilum_edge("detect", "--json", "in")
    assert result.exit_code == 1
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(document["file"]).name for document in documents] == [
        "a.png",
        "b.png",
        "c.png",
        "d.png",
    ]
    assert [document.get("error", {}).get("code") for document in documents] == [
        None,
        "not_an_image",
        "empty_file",
        None,
    ]
    assert all("findings" not in document for document in documents if "error" in document)
    assert documents[1]["error"]["hint"]
    assert "b.png: not_an_image" in result.stderr


def test_a_quoted_pattern_and_a_subfolder() -> None:
    write_image("in/a.png")
    write_image("in/deep/b.png")
    result = hilum_edge("detect", "--json", "in/*.png")
    assert [json.loads(line)["file"] for line in result.stdout.splitlines()] == ["in/a.png"]
    result = hilum_edge("detect", "--json", "--recursive", "in")
    assert len(result.stdout.splitlines()) == 2


def test_a_refused_file_has_code_message_and_hint_on_standard_error() -> None:
    result = hilum_edge("detect", write_image("a.png", b"x" * 300), write_image("b.png"))
    assert result.exit_code == 1
    assert "a.png: not_an_image: " in result.stderr
    assert len(result.stderr.splitlines()) == 2
    assert "Nodule/Mass" in result.stdout


def test_a_missing_file_does_not_affect_the_others() -> None:
    result = hilum_edge("detect", "absent.png", write_image("b.png"))
    assert result.exit_code == 1
    assert "absent.png: invalid_request: The file cannot be read: No such file" in result.stderr
    assert "Nodule/Mass" in result.stdout


def test_a_result_without_findings_is_reported_in_words() -> None:
    result = hilum_edge("detect", "--threshold", "0.99", write_image("a.png"))
    assert result.exit_code == 0
    assert "No finding reached its threshold" in result.stdout


def test_an_overlay_has_the_radiographs_size() -> None:
    pixels = np.full((700, 500), 180, np.uint8)
    file = write_image("big.png", cv2.imencode(".png", pixels)[1].tobytes())
    assert hilum_edge("detect", file, "--overlay", "out.png").exit_code == 0
    drawn = cv2.imread("out.png")
    assert drawn.shape[1] == 500
    assert drawn.shape[0] > 700
    assert (drawn[:700] != pixels[..., None]).any()


def test_overlays_of_a_folder_go_into_a_folder() -> None:
    write_image("in/a.png")
    write_image("in/b.png")
    write_image("in/c.png", b"")
    result = hilum_edge("detect", "in", "--overlay", "drawn")
    assert result.exit_code == 1
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["a.png", "b.png"]


def test_nothing_is_drawn_on_a_file_that_was_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    detect_files = detect.detect_files

    async def detect_then_replace(*arguments: Any, **options: Any) -> AsyncIterator[FileOutcome]:
        async for outcome in detect_files(*arguments, **options):
            write_image("next.png", tagged_png(150)).replace(outcome.path)
            yield outcome

    monkeypatch.setattr(detect, "detect_files", detect_then_replace)
    result = hilum_edge("detect", write_image("a.png"), "--overlay", "out.png")
    assert result.exit_code == 1
    assert "changed in the meantime" in result.stderr
    assert not Path("out.png").exists()


def test_an_overlay_that_cannot_be_written_is_that_files_failure() -> None:
    Path("drawn/a.png").mkdir(parents=True)
    result = hilum_edge("detect", write_image("a.png"), "--overlay", "drawn", "--json")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
    assert parse_response(
        {k: v for k, v in json.loads(result.stdout).items() if k != "error"}
    ).findings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["detect"], "Missing argument"),
        (["detect", "*.nothing"], "No file matches *.nothing"),
        (["detect", "."], "No study image in the folder"),
        (["detect", "a.png", "--threshold", "0"], "The score threshold is 0"),
        (["detect", "a.png", "--threshold", "nan"], "The score threshold is nan"),
        (["detect", "a.png", "b.png", "--overlay", "out.png"], "name a folder"),
        (["detect", "a.png", "--config", "absent.toml"], "absent.toml cannot be read"),
        (["serve", "--port", "65536"], "grpc.port"),
        (["bench", "--output", "absent/box.md"], "there is no folder absent"),
        (["audit", "verify", "--folder", "absent"], "There is no audit log in absent"),
        (["audit", "verify", "--folder", "."], "There is no audit log in ."),
        (["juggle"], "No such command"),
    ],
)
def test_wrong_usage_exits_with_2_and_reports_what_is_wrong(
    arguments: list[str], message: str
) -> None:
    result = hilum_edge(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_file_that_is_no_bundle_exits_with_1() -> None:
    result = hilum_edge(
        "detect", write_image("a.png"), "--bundle", write_image("x.bundle", b"PK no")
    )
    assert result.exit_code == 1
    assert "bundle_invalid" in result.stderr
    assert result.stdout == ""


def test_a_machine_that_fails_the_golden_cases_returns_no_findings(tmp_path: Path) -> None:
    failing = bundle_with_content_check(tmp_path / "failing.bundle", refuses=True)
    for _start in ("the first", "with a cached selection"):
        result = hilum_edge("detect", write_image("a.png"), "--bundle", failing)
        assert result.exit_code == 1
        assert result.stdout == ""
        stderr = " ".join(result.stderr.split())
        assert "engine_failed" in stderr
        assert "mass: refused as not_a_chest" in stderr


def test_a_missing_bundle_is_reported() -> None:
    result = hilum_edge("model", "show", "--bundle", "absent.bundle")
    assert result.exit_code == 1
    assert "absent.bundle cannot be read: No such file or directory" in result.stderr


def test_model_describes_a_bundle(toy: Path) -> None:
    result = hilum_edge("model", "show")
    assert result.exit_code == 0
    for text in ("toy", "0.0.1", "openvino-fp32", "Tests only.", "pulmonary_fibrosis"):
        assert text in result.stdout
    facts = json.loads(hilum_edge("model", "show", "--json", "--bundle", toy).stdout)
    assert facts["operating_points"]["openvino-fp32"]["ild"] == 0.25
    assert facts["file"] == str(toy)
    assert len(facts["digest"]) == 64


def test_an_unforeseen_failure_prints_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("Doe^Jane")

    monkeypatch.setattr("edge_agent.app.models.describe_bundle", fail)
    result = hilum_edge("model", "show")
    assert result.exit_code == 1
    assert "internal" in result.stderr
    assert "Doe" not in result.stderr
    assert "test_main.py:" in result.stderr
