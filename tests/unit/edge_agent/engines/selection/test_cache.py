"""A cached selection is loaded only under its own key."""

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

MACHINE = Hardware("AMD EPYC", 2, ("avx2", "avx512_vnni"), "")
KEY = SelectionKey(MACHINE, {"openvino": "2026.4"}, "d" * 64, ("a", "b"), "auto", 0)


def make_selection(key: SelectionKey = KEY, **changes: Any) -> CachedSelection:
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
def cache(tmp_path: Path) -> SelectionCache:
    return SelectionCache.open(tmp_path / "selections")


def only_file(cache: SelectionCache) -> Path:
    (path,) = cache.folder.iterdir()
    return path


def test_a_stored_selection_is_loaded_unchanged(cache: SelectionCache) -> None:
    assert cache.load(KEY) is None
    cache.store(make_selection(), KEY)
    assert cache.load(KEY) == make_selection()
    assert make_selection().batch == BatchPolicy(4, 2)
    assert only_file(cache).stat().st_mode & 0o777 == 0o600


OTHERS = {
    "another bundle": replace(KEY, bundle_digest="e" * 64),
    "a newer runtime": replace(KEY, runtimes={"openvino": "2026.5"}),
    "another processor": replace(KEY, hardware=replace(MACHINE, cpu="Xeon")),
    "more cores": replace(KEY, hardware=replace(MACHINE, cores=4)),
    "an instruction set more": replace(KEY, hardware=replace(MACHINE, flags=("amx_int8",))),
    "an instruction set forbidden": replace(KEY, hardware=replace(MACHINE, isa_limit="AVX2")),
    "another candidate": replace(KEY, candidates=("a", "b", "c")),
    "another requested variant": replace(KEY, wanted="b"),
    "other threads": replace(KEY, threads=1),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_key_has_no_selection_yet(cache: SelectionCache, case: str) -> None:
    cache.store(make_selection(), KEY)
    assert cache.load(OTHERS[case]) is None
    # A file that was moved to the place of another key is ignored, too.
    only_file(cache).rename(cache._path(OTHERS[case]))
    assert cache.load(OTHERS[case]) is None


def test_a_damaged_selection_is_ignored(cache: SelectionCache) -> None:
    cache.store(make_selection(), KEY)
    path = only_file(cache)
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
        assert cache.load(KEY) is None, damaged[:80]
    path.write_bytes(sound)
    assert cache.load(KEY) == make_selection()


def test_a_file_that_others_could_have_written_is_ignored(
    cache: SelectionCache, tmp_path: Path
) -> None:
    cache.store(make_selection(), KEY)
    path = only_file(cache)
    path.chmod(0o620)
    assert cache.load(KEY) is None
    path.chmod(0o600)
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    assert cache.load(KEY) is None
    path.unlink()
    os.mkfifo(path, 0o600)
    assert cache.load(KEY) is None


def test_an_open_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "selections").mkdir()
    (tmp_path / "selections").chmod(0o755)
    with pytest.raises(ConfigInvalid, match="not a private folder"):
        SelectionCache.open(tmp_path / "selections")


def test_only_the_newest_are_kept(cache: SelectionCache) -> None:
    for k in range(KEEP + 2):
        key = replace(KEY, threads=k)
        cache.store(make_selection(key), key)
        # Make each file older than the next, even if the clock is coarse.
        for path in cache.folder.iterdir():
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
    is_found = [cache.load(replace(KEY, threads=k)) is not None for k in range(KEEP + 2)]
    assert is_found == [False] * 2 + [True] * KEEP


def test_a_selection_that_cannot_be_written_is_no_error(cache: SelectionCache) -> None:
    cache.folder.rmdir()
    cache.store(make_selection(), KEY)
    assert cache.load(KEY) is None
