"""`hilum-train` on the command line: help, results, and errors that say what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from training.cli.main import app
from training.data import dataset

pytestmark = pytest.mark.training


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    "command",
    [
        ["synthetic"],
        ["run"],
        ["tune"],
        ["starter"],
        ["data", "statistics"],
        ["all"],
        ["evaluate"],
        ["export"],
        ["quantize"],
        ["tensorrt"],
        ["parity"],
        ["bundle"],
        ["publish"],
        ["add-content-check"],
        ["content-check"],
        ["data", "vindr"],
        ["data", "split"],
        ["data", "report"],
        ["data", "export"],
        ["data", "lung-shapes"],
    ],
)
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    status, output = run(*command, "--help")
    assert status == 0
    assert "Example" in output


def test_help_waits_for_no_library_of_the_commands() -> None:
    code = (
        "import sys; from training.cli.main import app; app(['--help'], standalone_mode=False); "
        "print([m for m in ('torch', 'openvino', 'pandas', 'cv2', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_synthetic_writes_a_set_and_a_preview(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    status, _ = run(
        "synthetic", "--out", tmp_path / "set", "--count", "3", "--workers", "1", "--preview", sheet
    )
    assert status == 0
    assert len(dataset.load_dataset(tmp_path / "set")) == 3
    preview = cv2.imread(str(sheet))
    assert preview is not None
    assert preview.shape == (384, 6 * 384, 3)


def test_what_is_wrong_is_said_and_the_status_is_not_zero(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for arguments, says in (
        (["synthetic", "--out", tmp_path, "--backgrounds", tmp_path / "no"], "is not a folder"),
        (["run", "--config", tmp_path / "no.yaml"], "no.yaml"),
        (["tune", "--config", tmp_path / "no.yaml"], "no.yaml"),
        (
            ["starter", "--out", tmp_path, "--work", tmp_path, "--backgrounds", tmp_path],
            "no frontal",
        ),
        (["data", "statistics", "--annotations", tmp_path / "no.csv", "--out", tmp_path], "no.csv"),
        (["data", "lung-shapes", "--masks", tmp_path, "--out", tmp_path / "x"], "at least 50"),
    ):
        status, output = run(*arguments)
        assert status == 1, arguments
        assert says in (output + capfd.readouterr().err).replace("\n", "")
    assert run("synthetic", "--count", "3")[0] == 2
