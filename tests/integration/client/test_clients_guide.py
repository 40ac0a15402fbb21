"""The programs in docs/clients.md run, and its table of codes is complete."""

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


def test_the_guides_programs_compile() -> None:
    assert len(LOCAL) >= 4
    for program in PROGRAMS:
        compile(program, "docs/clients.md", "exec")


@pytest.mark.parametrize("program", LOCAL)
def test_each_local_program_runs_unchanged(
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
    """Return the last column of the table of error codes, by code."""
    table = GUIDE.split("## Error codes")[1]
    return dict(re.findall(r"^\| `(\w+)` \| .* \| ([^|]+) \|$", table, flags=re.MULTILINE))


def test_the_table_of_codes_is_complete() -> None:
    assert set(rows()) == {*ErrorCode, *ClientErrorCode}
    of_agent, of_client = GUIDE.split("Made by the Python client itself")
    assert all(f"| `{code}` |" in of_agent for code in ErrorCode)
    assert all(f"| `{code}` |" in of_client for code in ClientErrorCode)


def test_the_table_of_warnings_is_complete() -> None:
    table = GUIDE.split("## Warnings")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == list(WarningCode)


@pytest.mark.parametrize(("code", "retries"), sorted(rows().items()))
def test_the_table_gives_the_number_of_retries(code: str, retries: str) -> None:
    error = DetectError(code, "What is wrong.", retryable=code in RETRYABLE)
    retry = Retry()
    attempts = next(n for n in count(1) if n > 100 or retry.compute_wait_s(error, n, 1e6) is None)
    assert retries == {1: "no", retry.attempts: "a few times"}.get(attempts, "until the deadline")
