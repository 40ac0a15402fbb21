"""Every link of the project's pages leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(rf"{FENCED.pattern}|`[^`\n]*`", FENCED.flags)


def anchors(page: Path) -> set[str]:
    """Headings as GitHub names them in addresses."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    prose = CODE.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(prose):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = page if not path else (page.parent / path).resolve()
        assert there.exists(), target
        assert there.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(there), target


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, due = set(), [ROOT / "README.md"]
    while due:
        page = due.pop()
        reached.add(page)
        targets = LINK.findall(CODE.sub("", page.read_text(encoding="utf-8")))
        linked = [(page.parent / it.partition("#")[0]).resolve() for it in targets]
        due += [it for it in linked if it.suffix == ".md" and it.exists() and it not in reached]
    assert set(PAGES) - reached <= {ROOT / "CHANGELOG.md"}
