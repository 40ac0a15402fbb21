"""`hilum-edge audit`: verify, show and export, and what they import."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from edge_agent.audit.log import AuditLimits, AuditLog
from edge_agent.audit.store import ANCHOR
from edge_agent.cli.main import app
from edge_agent.core.audit_chain import make_access_event
from edge_agent.core.authorization import Action, Principal, Role
from tests.support.agents.tagged import logging_restored

CLINIC = Principal("key:0123456789", Role.CLINIC)
BOX, OTHER_BOX = "0123456789abcdef" * 2, "fedcba9876543210" * 2


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of a box with a log of five entries, which the environment names."""
    folder = tmp_path / "state"
    monkeypatch.setenv("HILUM_EDGE__STATE_DIR", str(folder))
    log = AuditLog(
        folder / "audit",
        utc_now=lambda: datetime.now(UTC),
        box_id=BOX,
        limits=AuditLimits(gather_s=0, reserve_entries=0),
    )
    for number in range(3):
        log.record(make_access_event(CLINIC, Action.DETECT, request=f"{number:032x}"))
    log.close()
    (folder / "box-id").write_text(f"{BOX}\n")
    return folder


def audit(*arguments: str | Path) -> Result:
    with logging_restored():
        return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def test_the_boxs_own_log_passes(state: Path) -> None:
    result = audit("verify")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Intact: entries 0 to 4, head ")
    assert f"box {BOX}" in result.stdout


def test_another_boxs_log_does_not_pass(state: Path) -> None:
    (state / "box-id").write_text(f"{OTHER_BOX}\n")
    result = audit("verify")
    assert result.exit_code == 1
    assert f"written by box {BOX}, not by box {OTHER_BOX}" in result.stdout
    assert audit("verify", "--box", BOX).exit_code == 0
    assert audit("verify", "--folder", state / "audit").exit_code == 0
    assert audit("verify", "--folder", state / "audit", "--box", OTHER_BOX).exit_code == 1


def test_a_log_without_an_anchor_does_not_pass(state: Path) -> None:
    (state / "audit" / ANCHOR).unlink()
    result = audit("verify")
    assert result.exit_code == 1
    assert "NOT PROVEN" in result.stdout


def test_the_last_entries_are_shown() -> None:
    result = audit("show", "--last", "2")
    assert result.exit_code == 0
    first, second = result.stdout.splitlines()
    assert "detect outcome=ok actor=key:0123456789 role=clinic request=" in first
    assert second.split()[0] == "4"
    assert "log_closed outcome=ok actor=agent" in second
    shown = audit("show", "--json").stdout.splitlines()
    assert [json.loads(line)["seq"] for line in shown] == list(range(5))


def test_an_export_is_written_and_passes(tmp_path: Path) -> None:
    target = tmp_path / "export"
    result = audit("export", "--to", target)
    assert result.exit_code == 0, result.output
    assert "audit-000000000000.jsonl: entries 0 to 4, head " in result.stdout
    assert audit("verify", "--folder", target, "--box", BOX).exit_code == 0
    assert audit("verify", "--folder", target / "audit-000000000000.jsonl").exit_code == 0
    again = audit("export", "--to", target)
    assert (again.exit_code, again.stdout) == (0, "Nothing new since the last export.\n")


@pytest.mark.parametrize("command", ["verify", "show", "export --to x"])
def test_without_a_log_each_command_says_so(command: str, tmp_path: Path) -> None:
    result = audit(*command.split(), "--folder", tmp_path / "absent")
    assert result.exit_code == 2
    assert "There is no audit log in" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("target", ["file", "file/below"])
def test_a_target_that_cannot_be_written_to_is_reported(target: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = audit("export", "--to", tmp_path / target)
    assert result.exit_code == 2
    assert "cannot be exported to" in result.stderr


def test_the_commands_import_neither_engines_nor_grpc(make_program: Callable[[], str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", make_program()], check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.fixture
def make_program(state: Path) -> Callable[[], str]:
    return lambda: (
        "import sys\n"
        "from edge_agent.cli.main import app\n"
        f"app(['audit', 'verify', '--folder', {str(state / 'audit')!r}], standalone_mode=False)\n"
        "heavy = ('openvino', 'pydicom', 'cv2', 'grpc', 'numpy', 'onnxruntime', 'fastapi')\n"
        "print([name for name in heavy if sys.modules.get(name)])\n"
    )
