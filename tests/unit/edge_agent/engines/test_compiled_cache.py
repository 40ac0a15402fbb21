"""A compiled model is loaded as it was stored, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_agent.engines.compiled_cache import KEEP, CompiledCache
from edge_agent.errors import ConfigInvalid


def test_a_blob_is_found_only_under_its_own_key(tmp_path: Path) -> None:
    cache = CompiledCache.open(tmp_path / "deep" / "cache")
    assert cache.load("a", "bc") is None
    cache.store(b"blob", "a", "bc")
    assert cache.load("a", "bc") == b"blob"
    assert cache.load("ab", "c") is None
    cache.store(b"newer", "a", "bc")
    assert cache.load("a", "bc") == b"newer"
    assert len(list(cache.folder.iterdir())) == 1


def test_the_folder_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        cache = CompiledCache.open(tmp_path / "cache")
        cache.store(b"blob", "a")
    finally:
        os.umask(before)
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o077 for path in cache.folder.iterdir()] == [0]


def test_an_entry_with_a_flipped_bit_is_not_loaded(tmp_path: Path) -> None:
    cache = CompiledCache.open(tmp_path / "cache")
    cache.store(b"blob", "a")
    (path,) = cache.folder.iterdir()
    sound = path.read_bytes()
    for at in range(len(sound)):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        assert cache.load("a") is None


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    cache = CompiledCache.open(tmp_path / "cache")
    for k in range(KEEP + 3):
        cache.store(b"blob", str(k))
        # Make each entry older than the next, even if the clock is coarse.
        for path in cache.folder.iterdir():
            stat = path.stat()
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - 10**9))
    assert [cache.load(str(k)) for k in range(KEEP + 3)] == [None] * 3 + [b"blob"] * KEEP


def test_a_file_a_link_and_an_open_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "private")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    for name in ("file", "link", "open"):
        with pytest.raises(ConfigInvalid):
            CompiledCache.open(tmp_path / name)
    assert CompiledCache.open(tmp_path / "private").load("a") is None


def test_an_entry_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    cache = CompiledCache.open(tmp_path / "cache")
    cache.folder.rmdir()
    cache.store(b"blob", "a")
    assert cache.load("a") is None


def test_an_entry_that_can_be_neither_written_nor_removed_is_no_error(tmp_path: Path) -> None:
    cache = CompiledCache.open(tmp_path / "cache")
    cache.store(b"blob", "a")
    kept = next(cache.folder.iterdir())
    kept.unlink()
    (kept / "stays").mkdir(parents=True)
    cache.store(b"blob", "a")
    assert cache.load("a") is None
