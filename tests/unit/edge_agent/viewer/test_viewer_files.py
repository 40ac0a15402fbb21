"""The page's files: complete catalogues, no unused messages, nothing from other hosts."""

from __future__ import annotations

import json
import re
from itertools import chain
from pathlib import Path

import pytest

from edge_agent.cli.overlay import COLOURS
from edge_agent.serving.http.static_files import load_static_files
from edge_agent.viewer import FOLDER
from hilum.catalog import CATALOG
from hilum.codes import ErrorCode, WarningCode

CATALOGUES = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(FOLDER.glob("messages/*.json"))
}
SOURCES = [FOLDER / "index.html", *sorted(FOLDER.glob("js/*.js"))]
PLACEHOLDER = re.compile(r"\{(\w+)\}")
PLURAL = re.compile(r"\.(one|other)$")
BY_CODE = re.compile(r"^(error|todo|warning|finding)\.")


def test_the_page_offers_the_languages_that_exist() -> None:
    offered = re.findall(r'<option value="(\w+)"', (FOLDER / "index.html").read_text())
    in_use = re.findall(r'"(\w\w)"', re.findall(r"LANGUAGES = (.*);", _read("i18n.js"))[0])
    assert set(CATALOGUES) == set(offered) == set(in_use) == {"en", "de"}


@pytest.mark.parametrize("language", CATALOGUES)
def test_a_catalogue_has_a_text_for_every_key(language: str) -> None:
    messages = CATALOGUES[language]
    assert list(messages) == list(CATALOGUES["en"])
    assert all(isinstance(text, str) and text.strip() for text in messages.values())


@pytest.mark.parametrize("language", CATALOGUES)
def test_translations_have_the_same_placeholders(language: str) -> None:
    for key, english in CATALOGUES["en"].items():
        placeholders = [
            set(re.findall(r"\{(\w+)\}", text)) for text in (english, CATALOGUES[language][key])
        ]
        assert placeholders[0] == placeholders[1], key


@pytest.mark.parametrize("language", CATALOGUES)
def test_every_code_and_finding_has_a_text(language: str) -> None:
    required = chain(
        (f"error.{code}" for code in ErrorCode),
        (f"todo.{code}" for code in ErrorCode),
        (f"warning.{code}" for code in WarningCode),
        (f"finding.{kind.slug}" for kind in CATALOG),
    )
    assert sorted(set(required) - set(CATALOGUES[language])) == []


def test_every_key_in_use_exists_and_no_other() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    named = set(re.findall(r'["`]([a-z]+(?:\.[a-z_]+)+)["`]', text))
    keys = {PLURAL.sub("", key) for key in CATALOGUES["en"]}
    groups = {key.split(".")[0] for key in keys}
    assert sorted(key for key in named - keys if key.split(".")[0] in groups) == []
    assert sorted(key for key in keys - named if not BY_CODE.match(key)) == []


def test_an_empty_result_is_never_called_normal() -> None:
    for key, text in CATALOGUES["en"].items():
        if key != "result.none_more":
            assert not re.search(r"\b(normal|healthy|unremarkable)\b", text), key
    for key, text in CATALOGUES["de"].items():
        if key != "result.none_more":
            assert not re.search(r"unauffällig|gesund|normal", text), key


def test_the_disclaimer_is_in_the_page_itself() -> None:
    for page in ("index.html", "docs.html"):
        assert "RESEARCH USE ONLY" in (FOLDER / page).read_text()
    assert {it["page.research"] for it in CATALOGUES.values()} == {"RESEARCH USE ONLY"}


def test_nothing_is_loaded_from_other_hosts_and_nothing_is_inline() -> None:
    for path in (it for it in FOLDER.rglob("*") if it.suffix in {".html", ".css", ".js", ".svg"}):
        text = path.read_text(encoding="utf-8")
        links = set(re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}[\w/.]*", text))
        assert links <= {"http://www.w3.org/2000/svg"}, path
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|eval\(", text), path


def test_colours_are_those_of_the_overlay() -> None:
    found = re.findall(r'"rgb\((\d+) (\d+) (\d+)\)"', _read("colours.js"))
    assert [tuple(map(int, rgb)) for rgb in found] == [bgr[::-1] for bgr in COLOURS]


def test_every_file_that_the_page_loads_is_served() -> None:
    pages = load_static_files(FOLDER)
    assert {"/", "/docs", "/style.css", "/icon.svg"} <= set(pages)
    for source in FOLDER.glob("js/*.js"):
        for imported in re.findall(r'from "\./([\w.]+)"|import "\./([\w.]+)"', _read(source.name)):
            assert f"/js/{''.join(imported)}" in pages
    assert not any(Path(address).suffix == ".py" for address in pages)


def _read(name: str) -> str:
    return (FOLDER / "js" / name).read_text(encoding="utf-8")
