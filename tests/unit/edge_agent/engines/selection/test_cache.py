"""A selection is found under its own key and under no other."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.engine_selection import BatchPolicy, BenchmarkResult
from edge_agent.engines.hardware import Hardware
from edge_agent.engines.selection.cache import KEEP, CachedSelection, SelectionCache, SelectionKey
from edge_agent.errors import ConfigInvalid

BOX = Hardware("AMD EPYC", 2, ("avx2", "avx512_vnni"), "")
HERE = SelectionKey(BOX, {"openvino": "2026.4"}, "d" * 64, ("a", "b"), "auto", 0)


def kept(key: SelectionKey = HERE, **changes: Any) -> CachedSelection:
    fields: dict[str, Any] = {
        "key": key.as_text(),
        "variant": "b",
        "reason": "fastest",
        "measured": (BenchmarkResult("a", 2.5), BenchmarkResult("b", None, "crashed")),
        "max_batch": 4,
        "parallel_requests": 2,
    }
    return CachedSelection(**fields | changes)


@pytest.fixture
def choices(tmp_path: Path) -> SelectionCache:
    return SelectionCache.open(tmp_path / "selections")


def only_file(choices: SelectionCache) -> Path:
    (path,) = choices.folder.iterdir()
    return path


def test_it_comes_back_as_it_was(choices: SelectionCache) -> None:
    assert choices.load(HERE) is None
    choices.store(kept(), HERE)
    assert choices.load(HERE) == kept()
    assert kept().batch == BatchPolicy(4, 2)
    assert only_file(choices).stat().st_mode & 0o777 == 0o600


OTHERS = {
    "another bundle": replace(HERE, bundle_digest="e" * 64),
    "a newer runtime": replace(HERE, runtimes={"openvino": "2026.5"}),
    "another processor": replace(HERE, hardware=replace(BOX, cpu="Xeon")),
    "more cores": replace(HERE, hardware=replace(BOX, cores=4)),
    "an instruction set more": replace(HERE, hardware=replace(BOX, flags=("amx_int8",))),
    "an instruction set forbidden": replace(HERE, hardware=replace(BOX, isa_limit="AVX2")),
    "another candidate": replace(HERE, candidates=("a", "b", "c")),
    "another wish": replace(HERE, wanted="b"),
    "other threads": replace(HERE, threads=1),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_key_has_no_selection_yet(choices: SelectionCache, case: str) -> None:
    choices.store(kept(), HERE)
    assert choices.load(OTHERS[case]) is None
    # Nor does a file that was moved into its place count.
    only_file(choices).rename(choices._path(OTHERS[case]))
    assert choices.load(OTHERS[case]) is None


def test_any_damage_makes_it_absent(choices: SelectionCache) -> None:
    choices.store(kept(), HERE)
    path = only_file(choices)
    sound = path.read_bytes()
    for damaged in (
        b"",
        sound[:-20],
        b"\xff" + sound,
        b"[]",
        b'{"schema_version": 2' + sound[sound.index(b",") :],
        sound.replace(b'"variant": "b"', b'"variant": "c"'),
        sound.replace(b'"max_batch": 4', b'"max_batch": 0'),
        sound.replace(b'"max_batch": 4', b'"max_batch": 4, "more": 1'),
        sound.replace(b"2.5", b'"quick"'),
        sound + b" " * (1 << 16),
    ):
        path.write_bytes(damaged)
        assert choices.load(HERE) is None, damaged[:80]
    path.write_bytes(sound)
    assert choices.load(HERE) == kept()


def test_a_file_that_others_could_have_written_is_ignored(
    choices: SelectionCache, tmp_path: Path
) -> None:
    choices.store(kept(), HERE)
    path = only_file(choices)
    path.chmod(0o620)
    assert choices.load(HERE) is None
    path.chmod(0o600)
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    assert choices.load(HERE) is None
    path.unlink()
    os.mkfifo(path, 0o600)
    assert choices.load(HERE) is None


def test_an_open_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "selections").mkdir()
    (tmp_path / "selections").chmod(0o755)
    with pytest.raises(ConfigInvalid, match="not a private folder"):
        SelectionCache.open(tmp_path / "selections")


def test_only_the_newest_are_kept(choices: SelectionCache) -> None:
    for k in range(KEEP + 2):
        there = replace(HERE, threads=k)
        choices.store(kept(there), there)
        for path in choices.folder.iterdir():  # Older than the next, however coarse the clock.
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
    found = [choices.load(replace(HERE, threads=k)) is not None for k in range(KEEP + 2)]
    assert found == [False] * 2 + [True] * KEEP


def test_a_disk_that_cannot_be_written_costs_only_the_time(choices: SelectionCache) -> None:
    choices.folder.rmdir()
    choices.store(kept(), HERE)
    assert choices.load(HERE) is None
