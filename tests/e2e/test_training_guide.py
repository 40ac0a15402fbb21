"""The first block of docs/training.md, unchanged: from nothing to a bundle that an agent runs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.engines.bundle import Bundle
from tests.conftest import pydicom_file

pytestmark = [pytest.mark.training, pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    block = re.findall(r"```\n(.*?)```", GUIDE, flags=re.DOTALL)[0]
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]


def test_the_guides_commands_make_a_bundle_from_nothing(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs" / "examples", tmp_path / "docs" / "examples")
    shutil.copy(pydicom_file("RG1_UNCI.dcm"), tmp_path / "chest.dcm")
    own_folders = {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    tools = [command[0] for command in commands()]
    assert tools == ["hilum-train"] * 3 + ["hilum-edge"]
    for tool, *arguments in commands():
        completed = subprocess.run(
            [Path(sys.executable).with_name(tool), *arguments],
            cwd=tmp_path,
            env=os.environ | own_folders,
            capture_output=True,
            text=True,
            check=False,
        )
        assert completed.returncode == 0, f"{tool} {arguments}: {completed.stderr}"
    bundle = Bundle.open(tmp_path / "runs" / "toy" / "toy-0.0.1.bundle")
    assert "chest.dcm" in completed.stdout + completed.stderr
    assert bundle.manifest.provenance.trained_on.endswith("images of painted radiographs")
