import os
import threading
from pathlib import Path

import pytest

from edge_agent.errors import ConfigInvalid
from edge_agent.system.files import (
    lock_file,
    make_private_folder,
    remove_oldest,
    replace_file,
    replace_files,
)

AS_ROOT = os.geteuid() == 0


def test_a_new_file_is_private(tmp_path: Path) -> None:
    replace_file(tmp_path / "new", b"a")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_a_replaced_file_keeps_its_mode_and_owner(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o640)
    if AS_ROOT:
        os.chown(path, 12345, 54321)
    before = path.stat()
    replace_file(path, b"other")
    after = path.stat()
    assert path.read_bytes() == b"other"
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    assert after.st_ino != before.st_ino


def test_a_failed_replacement_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_file(target, b"x")
    assert list(tmp_path.iterdir()) == [target]


def test_a_given_mode_applies_to_a_replaced_file_too(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o666)
    replace_file(path, b"in ", b"parts", mode=0o600)
    assert path.read_bytes() == b"in parts"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_killed_writers_temporary_file_is_replaced(tmp_path: Path) -> None:
    left = tmp_path / f".file.{threading.get_native_id()}.part"
    left.write_bytes(b"half a")
    replace_file(tmp_path / "file", b"whole")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_files_are_replaced_together(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "for them"
    with replace_files(folder) as temporary_path:
        for name in ("a", "below/b"):
            temporary_path(name).write_text(name)
        assert not any((folder / name).exists() for name in ("a", "below/b"))
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.relative_to(folder).as_posix(): path.read_text() for path in found} == {
        "a": "a",
        "below/b": "below/b",
    }


def test_if_one_file_fails_none_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")

    def interrupt_after_two() -> None:
        with replace_files(tmp_path) as temporary_path:
            temporary_path("a").write_text("new")
            temporary_path("b").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt_after_two()
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
    assert (tmp_path / "a").read_text() == "old"


def test_only_the_newest_files_are_kept(tmp_path: Path) -> None:
    for age in range(5):
        (tmp_path / str(age)).touch()
        os.utime(tmp_path / str(age), (1000 - age, 1000 - age))
    remove_oldest(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_folder_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    make_private_folder(tmp_path / "cache", "model cache")
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    (tmp_path / "cache").chmod(mode)
    with pytest.raises(ConfigInvalid, match=r"model cache .* is not a private folder"):
        make_private_folder(tmp_path / "cache", "model cache")


def test_a_lock_is_held_by_one_thread_at_a_time(tmp_path: Path) -> None:
    path, seen = tmp_path / "count", []
    path.write_text("0")

    def add_one() -> None:
        for _ in range(25):
            with lock_file(tmp_path / "lock"):
                number = int(path.read_text())
                seen.append(number)
                path.write_text(str(number + 1))

    threads = [threading.Thread(target=add_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == list(range(100))
