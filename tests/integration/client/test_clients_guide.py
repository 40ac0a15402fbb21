"""docs/clients.md: its programs run, and its table of codes is whole."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path

import pytest

from hilum.client import ClientErrorCode, DetectError, ErrorCode, Retry
from hilum.client.errors import RETRYABLE
from hilum.codes import WarningCode
from tests.support.agents.scripted import running

GUIDE = (Path(__file__).parents[3] / "docs" / "clients.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
LOCAL = [program for program in PROGRAMS if '"127.0.0.1:50051"' in program]


def test_the_guide_shows_programs() -> None:
    assert len(LOCAL) >= 4
    for program in PROGRAMS:
        compile(program, "docs/clients.md", "exec")


@pytest.mark.parametrize("program", LOCAL)
def test_each_program_runs_as_it_stands(
    program: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "chest.dcm").write_bytes(b"a study image")
    monkeypatch.chdir(tmp_path)
    with running() as agent:
        agent.serving()
        code = compile(program.replace("127.0.0.1:50051", agent.address), "clients.md", "exec")
        exec(code, {"__name__": "__main__"})  # noqa: S102  # the guide's own program
        assert agent.requests
    assert "Error" not in capsys.readouterr().out


def rows() -> dict[str, str]:
    """Code to the table's last column."""
    table = GUIDE.split("## Error codes")[1]
    return dict(re.findall(r"^\| `(\w+)` \| .* \| ([^|]+) \|$", table, flags=re.MULTILINE))


def test_the_table_of_codes_is_whole() -> None:
    assert set(rows()) == {*ErrorCode, *ClientErrorCode}
    theirs, ours = GUIDE.split("Made by the Python client itself")
    assert all(f"| `{code}` |" in theirs for code in ErrorCode)
    assert all(f"| `{code}` |" in ours for code in ClientErrorCode)


def test_the_table_of_warnings_is_whole() -> None:
    table = GUIDE.split("## Warnings")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == list(WarningCode)


@pytest.mark.parametrize(("code", "said"), sorted(rows().items()))
def test_the_table_says_what_is_tried_again(code: str, said: str) -> None:
    error = DetectError(code, "What is wrong.", retryable=code in RETRYABLE)
    retry = Retry()
    tries = next(n for n in count(1) if n > 100 or retry.compute_wait_s(error, n, 1e6) is None)
    assert said == {1: "no", retry.attempts: "a few times"}.get(tries, "until the deadline")
