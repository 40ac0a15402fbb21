"""The import rules in pyproject.toml name what they are about; import-linter checks them."""

from __future__ import annotations

import pkgutil
import tomllib
from pathlib import Path

import edge_agent

ROOT = Path(__file__).parents[3]
TRAINING_MAY_USE = {"core", "engines", "errors", "imaging", "system"}


def test_training_is_kept_from_every_part_of_the_agent_but_these() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (rule,) = (
        contract
        for contract in settings["tool"]["importlinter"]["contracts"]
        if contract["name"].startswith("Training uses")
    )
    parts = {part.name for part in pkgutil.iter_modules(edge_agent.__path__)} - TRAINING_MAY_USE
    assert set(rule["forbidden_modules"]) == {f"edge_agent.{part}" for part in parts}
