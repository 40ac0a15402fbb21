"""`hilum-edge` as it is typed, in this process, with a toy bundle."""

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
def apart(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HILUM_EDGE__BUNDLE", str(toy))
    monkeypatch.setenv("HILUM_EDGE__CACHE_DIR", str(toy.parent / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    with logging_restored():
        yield


def hilum_edge(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def put(name: str, data: bytes | None = None) -> Path:
    file = Path(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(tagged_png(200) if data is None else data)
    return file


def contract(document: dict[str, object]) -> pb.DetectResponse:
    """The document without its file is the contract's JSON and nothing else."""
    return ParseDict({k: v for k, v in document.items() if k != "file"}, pb.DetectResponse())


def test_version() -> None:
    assert hilum_edge("--version").stdout == f"hilum-edge {version('hilum')}\n"


def test_help_lists_the_commands() -> None:
    helped = hilum_edge("--help")
    assert helped.exit_code == 0
    for name in ("serve", "detect", "model", "bench", "keys", "audit"):
        assert re.search(rf"^\W*{name}\b", helped.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    "command",
    ["serve", "detect", "model", "bench", "keys add", "keys list", "keys remove", "audit verify"],
)
def test_help_of_every_command_has_examples_one_to_a_line(command: str) -> None:
    helped = hilum_edge(*command.split(), "--help")
    assert helped.exit_code == 0
    examples = helped.stdout.split("For example:")[1].split("─")[0].splitlines()
    assert any(line.strip().startswith(f"hilum-edge {command}") for line in examples)
    assert all(line.count(f"hilum-edge {command}") <= 1 for line in examples)


def test_one_real_radiograph_as_a_table() -> None:
    ran = hilum_edge("detect", pydicom_file("RG1_UNCI.dcm"))
    assert ran.exit_code == 0
    assert "1841 x 1955 px, dicom, view PA" in ran.stdout
    assert "Nodule/Mass" in ran.stdout
    assert ran.stderr == ""


def test_one_file_as_a_json_document() -> None:
    ran = hilum_edge("detect", "--json", put("a.png"))
    assert ran.exit_code == 0
    document = json.loads(ran.stdout)
    assert document["file"] == "a.png"
    (finding,) = contract(document).findings
    assert (finding.slug, finding.name, finding.concept.value) == (
        "nodule_mass",
        "Nodule/Mass",
        "NODULE_MASS",
    )
    assert finding.score == pytest.approx(200 / 255, abs=1e-4)
    assert finding.box.x_min == pytest.approx(48)


def test_several_files_as_json_lines_in_their_order_with_refusals_among_them() -> None:
    put("in/a.png")
    put("in/b.png", b"no image at all, though its name says so")
    put("in/c.png", b"")
    put("in/d.png")
    ran = hilum_edge("detect", "--json", "in")
    assert ran.exit_code == 1
    documents = [json.loads(line) for line in ran.stdout.splitlines()]
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
    assert "b.png: not_an_image" in ran.stderr


def test_a_quoted_pattern_and_a_folder_within() -> None:
    put("in/a.png")
    put("in/deep/b.png")
    ran = hilum_edge("detect", "--json", "in/*.png")
    assert [json.loads(line)["file"] for line in ran.stdout.splitlines()] == ["in/a.png"]
    ran = hilum_edge("detect", "--json", "--recursive", "in")
    assert len(ran.stdout.splitlines()) == 2


def test_a_refused_file_has_code_message_and_hint_on_standard_error() -> None:
    ran = hilum_edge("detect", put("a.png", b"x" * 300), put("b.png"))
    assert ran.exit_code == 1
    assert "a.png: not_an_image: " in ran.stderr
    assert len(ran.stderr.splitlines()) == 2
    assert "Nodule/Mass" in ran.stdout


def test_a_file_that_is_not_there_does_not_keep_the_others_waiting() -> None:
    ran = hilum_edge("detect", "absent.png", put("b.png"))
    assert ran.exit_code == 1
    assert "absent.png: invalid_request: The file cannot be read: No such file" in ran.stderr
    assert "Nodule/Mass" in ran.stdout


def test_nothing_found_is_said_in_words() -> None:
    ran = hilum_edge("detect", "--threshold", "0.99", put("a.png"))
    assert ran.exit_code == 0
    assert "No finding reached its threshold" in ran.stdout


def test_overlay_has_the_radiographs_own_size() -> None:
    pixels = np.full((700, 500), 180, np.uint8)
    file = put("big.png", cv2.imencode(".png", pixels)[1].tobytes())
    assert hilum_edge("detect", file, "--overlay", "out.png").exit_code == 0
    drawn = cv2.imread("out.png")
    assert drawn.shape[1] == 500
    assert drawn.shape[0] > 700
    assert (drawn[:700] != pixels[..., None]).any()


def test_overlays_of_a_folder_go_into_a_folder() -> None:
    put("in/a.png")
    put("in/b.png")
    put("in/c.png", b"")
    ran = hilum_edge("detect", "in", "--overlay", "drawn")
    assert ran.exit_code == 1
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["a.png", "b.png"]


def test_nothing_is_drawn_on_a_picture_that_took_the_files_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    detect_files = detect.detect_files

    async def replaced_after(*arguments: Any, **options: Any) -> AsyncIterator[FileOutcome]:
        async for outcome in detect_files(*arguments, **options):
            put("next.png", tagged_png(150)).replace(outcome.path)
            yield outcome

    monkeypatch.setattr(detect, "detect_files", replaced_after)
    ran = hilum_edge("detect", put("a.png"), "--overlay", "out.png")
    assert ran.exit_code == 1
    assert "changed in the meantime" in ran.stderr
    assert not Path("out.png").exists()


def test_an_overlay_that_cannot_be_written_is_that_files_failure() -> None:
    Path("drawn/a.png").mkdir(parents=True)
    ran = hilum_edge("detect", put("a.png"), "--overlay", "drawn", "--json")
    assert ran.exit_code == 1
    assert "cannot be written" in ran.stderr
    assert contract({k: v for k, v in json.loads(ran.stdout).items() if k != "error"}).findings


@pytest.mark.parametrize(
    ("arguments", "says"),
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
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(arguments: list[str], says: str) -> None:
    ran = hilum_edge(*arguments)
    assert ran.exit_code == 2
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_bundle_that_is_none_ends_with_1() -> None:
    ran = hilum_edge("detect", put("a.png"), "--bundle", put("x.bundle", b"PK no"))
    assert ran.exit_code == 1
    assert "bundle_invalid" in ran.stderr
    assert ran.stdout == ""


def test_a_box_that_fails_the_golden_cases_answers_nothing(tmp_path: Path) -> None:
    unsound = bundle_with_content_check(tmp_path / "unsound.bundle", refuses=True)
    for _start in ("the first", "one that remembers what was measured"):
        ran = hilum_edge("detect", put("a.png"), "--bundle", unsound)
        assert ran.exit_code == 1
        assert ran.stdout == ""
        said = " ".join(ran.stderr.split())
        assert "engine_failed" in said
        assert "mass: refused as not_a_chest" in said


def test_a_bundle_that_is_not_there_is_said_so() -> None:
    ran = hilum_edge("model", "--bundle", "absent.bundle")
    assert ran.exit_code == 1
    assert "absent.bundle cannot be read: No such file or directory" in ran.stderr


def test_model_shows_what_a_bundle_is(toy: Path) -> None:
    ran = hilum_edge("model")
    assert ran.exit_code == 0
    for fact in ("toy", "0.0.1", "openvino-fp32", "Tests only.", "pulmonary_fibrosis"):
        assert fact in ran.stdout
    facts = json.loads(hilum_edge("model", "--json", "--bundle", toy).stdout)
    assert facts["operating_points"]["openvino-fp32"]["ild"] == 0.25
    assert facts["file"] == str(toy)
    assert len(facts["digest"]) == 64


def test_an_unforeseen_failure_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise KeyError("Doe^Jane")

    monkeypatch.setattr("edge_agent.app.models.describe_bundle", fails)
    ran = hilum_edge("model")
    assert ran.exit_code == 1
    assert "internal" in ran.stderr
    assert "Doe" not in ran.stderr
    assert "test_main.py:" in ran.stderr
