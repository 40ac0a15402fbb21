"""`bundle`, `publish` and `all` on the command line: help, and errors that name what to mend."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_agent.engines.bundle import starter_bundle_path
from tests.support.training.toy_sets import configured
from training.cli.main import app
from training.config import load_config
from training.errors import TrainingError
from training.train import run_manifest

pytestmark = [pytest.mark.training, pytest.mark.slow]


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize("command", ["bundle", "publish", "all"])
def test_help_has_an_example(command: str) -> None:
    status, output = run(command, "--help")
    assert status == 0
    assert "Example" in output


def test_what_is_wrong_is_said_and_the_status_is_not_zero(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = configured(tmp_path)
    unknown = configured_with_a_typing_error(config)
    for arguments, says in (
        (["bundle", "--config", tmp_path / "no.yaml"], "no.yaml"),
        (["bundle", "--config", config], "Run `hilum-train export` first"),
        (["all", "--config", unknown], "unknown key bundle.nmae; did you mean bundle.name?"),
        (["all", "--config", config], "the split 'test' is empty"),
        (["publish", "--bundle", tmp_path / "no.bundle", "--to", "sqlite:///x.db"], "no.bundle"),
        (["publish", "--bundle", starter_bundle_path(), "--to", "x.db"], "cannot publish to"),
    ):
        status, output = run(*arguments)
        assert status == 1, arguments
        assert says in (output + capfd.readouterr().err).replace("\n", ""), arguments
    assert run("publish", "--to", "sqlite:///x.db")[0] == 2


def configured_with_a_typing_error(config: Path) -> Path:
    path = config.with_name("typing-error.yaml")
    path.write_text(config.read_text().replace('"out"', '"bundle": {"nmae": "x"}, "out"'))
    return path


def test_a_run_that_is_gone_on_with_keeps_what_it_declared(tmp_path: Path) -> None:
    config = load_config(configured(tmp_path))
    first = run_manifest.create_or_check(config, "1" * 64, "abc")
    assert run_manifest.create_or_check(config, "1" * 64, "other", resume=True) == first
    with pytest.raises(TrainingError, match="another split"):
        run_manifest.create_or_check(config, "2" * 64, "abc", resume=True)
    (config.out / run_manifest.FILE).unlink()
    with pytest.raises(TrainingError, match="writes when it starts"):
        run_manifest.create_or_check(config, "1" * 64, "abc", resume=True)


def test_a_damaged_beginning_is_named(tmp_path: Path) -> None:
    config = load_config(configured(tmp_path))
    run_manifest.create_or_check(config, "1" * 64, "abc")
    (config.out / run_manifest.FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"run\.json is not valid"):
        run_manifest.load(config)
