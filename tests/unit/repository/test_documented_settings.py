"""docs/edge-agent.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel

from edge_agent.config import Settings

PAGE = (Path(__file__).parents[3] / "docs" / "edge-agent.md").read_text()
SETTINGS = PAGE.partition("## Settings")[2].partition("\n## ")[0]


def leaves(model: type[BaseModel], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= leaves(field.annotation, f"{prefix}{name}.")
        else:
            found[prefix + name] = field.default
    return found


def test_every_setting_is_listed_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| ([^|]+) \|", SETTINGS, re.MULTILINE))
    settings = leaves(Settings)
    assert set(rows) == set(settings)
    for name, default in settings.items():
        if isinstance(default, int | float | str):
            # A float is written without its point where that says the same.
            is_whole = isinstance(default, float) and default.is_integer()
            written = int(default) if is_whole else default
            assert rows[name] == (str(written) or "none"), name
