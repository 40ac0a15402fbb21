"""The import rules in pyproject.toml cover what they are about; import-linter checks them."""

from __future__ import annotations

import pkgutil
import tomllib
from pathlib import Path
from typing import Any

import edge_agent

ROOT = Path(__file__).parents[3]
TRAINING_MAY_USE = {"core", "engines", "errors", "imaging", "system"}
LINTER: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "tool"
]["importlinter"]


def test_training_is_kept_from_every_part_of_the_agent_but_these() -> None:
    (rule,) = (it for it in LINTER["contracts"] if it["name"].startswith("Training uses"))
    parts = {part.name for part in pkgutil.iter_modules(edge_agent.__path__)} - TRAINING_MAY_USE
    forbidden = {f"edge_agent.{part}" for part in parts}
    assert set(rule["forbidden_modules"]) == forbidden | {"fleet_server"}


def test_every_part_has_layers_that_no_module_escapes() -> None:
    """A new top-level package, such as fleet_server, fails here until it has layers of its own."""
    parts = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    layered = {
        container
        for rule in LINTER["contracts"]
        if rule["type"] == "layers" and rule.get("exhaustive")
        for container in rule["containers"]
    }
    assert layered == parts
    assert parts | {"hilum"} == set(LINTER["root_packages"])
    (siblings,) = (it for it in LINTER["contracts"] if it["type"] == "acyclic_siblings")
    assert set(siblings["ancestors"]) == parts
