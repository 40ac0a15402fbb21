from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest

from edge_agent.errors import ConfigInvalid
from edge_agent.system.state_folder import StateFolder


def refused(path: Path) -> ConfigInvalid:
    with pytest.raises(ConfigInvalid) as caught:
        StateFolder.open(path)
    return caught.value


def test_what_is_missing_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "var/hilum"
    state = StateFolder.open(path)
    folders = [path, state.audit, state.tuf, *state.slots.values(), path / "slots"]
    assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in folders)
    assert set(state.slots) == {"a", "b"}
    assert (path / "box-id").stat().st_mode & 0o777 == 0o600
    assert sorted(it.name for it in path.iterdir()) == ["audit", "box-id", "slots", "tuf"]


def test_the_other_names_of_the_layout(tmp_path: Path) -> None:
    state = StateFolder.open(tmp_path / "state")
    assert [it.name for it in (state.update_db, state.outbox_db, state.socket)] == [
        "update.db",
        "outbox.db",
        "agent.sock",
    ]


def test_the_box_id_is_made_once(tmp_path: Path) -> None:
    first, other = StateFolder.open(tmp_path / "a"), StateFolder.open(tmp_path / "b")
    assert re.fullmatch("[0-9a-f]{32}", first.box_id)
    assert StateFolder.open(tmp_path / "a").box_id == first.box_id != other.box_id


def test_processes_that_start_together_have_one_box_id(tmp_path: Path) -> None:
    path, found = tmp_path / "state", []
    threads = [
        threading.Thread(target=lambda: found.append(StateFolder.open(path).box_id))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(list(path.iterdir())) == 4, "no temporary file is left"


@pytest.mark.parametrize("name", ["", "audit", "slots", "slots/a", "slots/b", "tuf", "box-id"])
def test_what_others_can_read_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, name: str
) -> None:
    path = StateFolder.open(tmp_path / "state").path / name
    mode = path.stat().st_mode & 0o777
    path.chmod(mode | 0o050)
    error = refused(tmp_path / "state")
    assert f"{path} is open to other users" in error.message
    assert error.hint == f"chmod {mode:o} {path}"
    path.chmod(mode)
    StateFolder.open(tmp_path / "state")


@pytest.mark.parametrize("name", ["", "audit", "slots/b"])
def test_a_link_is_refused(tmp_path: Path, name: str) -> None:
    path = StateFolder.open(tmp_path / "state").path / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    error = refused(tmp_path / "state")
    assert "is a link" in error.message
    assert str(tmp_path / "elsewhere") in error.hint


def test_a_link_in_place_of_the_box_id_is_refused(tmp_path: Path) -> None:
    path = StateFolder.open(tmp_path / "state").path / "box-id"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert "box's id" in refused(tmp_path / "state").message


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("")
    assert f"mv {path} " in refused(path).hint


def test_another_users_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    StateFolder.open(tmp_path / "state")
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    error = refused(tmp_path / "state")
    assert "belongs to another user" in error.message
    assert error.hint == f"sudo chown {other} {tmp_path / 'state'}"


@pytest.mark.parametrize("content", [b"", b"0" * 31, b"0" * 33, b"g" * 32, b"0" * 32 + b"\nx"])
def test_a_damaged_box_id_is_refused(tmp_path: Path, content: bytes) -> None:
    path = StateFolder.open(tmp_path / "state").path / "box-id"
    path.write_bytes(content)
    error = refused(tmp_path / "state")
    assert "is damaged" in error.message
    assert f"rm {path}" in error.hint


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be made" in refused(tmp_path / "file" / "state").message
