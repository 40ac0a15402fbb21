import os
from pathlib import Path

import pytest

from edge_agent.errors import ConfigInvalid
from edge_agent.system.config_files import ReloadingFile, read_config_file
from edge_agent.system.files import replace_file

AS_ROOT = os.geteuid() == 0


def secret(tmp_path: Path, mode: int = 0o600) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(b"x")
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_private_files_are_read(tmp_path: Path, mode: int) -> None:
    assert read_config_file(secret(tmp_path, mode), "key", is_private=True) == b"x"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o601, 0o660, 0o620, 0o777])
def test_private_files_that_others_can_read_or_change_are_refused(
    tmp_path: Path, mode: int
) -> None:
    with pytest.raises(
        ConfigInvalid, match=f"read or changed by others .mode {mode:04o}"
    ) as caught:
        read_config_file(secret(tmp_path, mode), "key", is_private=True)
    assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize(("mode", "refused"), [(0o644, False), (0o664, False), (0o646, True)])
def test_world_writable_public_files_are_refused(tmp_path: Path, mode: int, refused: bool) -> None:
    path = secret(tmp_path, mode)
    if not refused:
        assert read_config_file(path, "certificate", is_private=False) == b"x"
        return
    with pytest.raises(ConfigInvalid, match="changed by others"):
        read_config_file(path, "certificate", is_private=False)


def test_links_are_followed_and_their_targets_checked(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(secret(tmp_path, 0o644))
    with pytest.raises(ConfigInvalid, match="by others"):
        read_config_file(link, "key", is_private=True)
    secret(tmp_path, 0o600)
    assert read_config_file(link, "key", is_private=True) == b"x"


def test_other_than_regular_files_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="no key at"):
        read_config_file(tmp_path / "absent", "key", is_private=True)
    with pytest.raises(ConfigInvalid, match="regular file"):
        read_config_file(tmp_path, "key", is_private=True)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigInvalid, match="regular file"):
        read_config_file(tmp_path / "pipe", "key", is_private=True)
    big = tmp_path / "big"
    big.touch(mode=0o600)
    os.truncate(big, 1 << 30)
    with pytest.raises(ConfigInvalid, match="larger than"):
        read_config_file(big, "key", is_private=True)


@pytest.mark.skipif(not AS_ROOT, reason="only root can give files away")
def test_another_users_private_file_is_refused(tmp_path: Path) -> None:
    path = secret(tmp_path)
    os.chown(path, 12345, 12345)
    with pytest.raises(ConfigInvalid, match="another user"):
        read_config_file(path, "key", is_private=True)


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(ConfigInvalid, match="cannot be read: Too many levels"):
        read_config_file(loop, "key", is_private=True)


def load_number(path: Path) -> int:
    try:
        return int(path.read_text())
    except ValueError:
        raise ConfigInvalid(f"{path.name} holds no number.") from None


def test_a_changed_file_is_loaded_again(tmp_path: Path) -> None:
    path = tmp_path / "number"
    replace_file(path, b"1")
    reloading = ReloadingFile(path, load_number, gone=0)
    assert reloading.get() == 1
    replace_file(path, b"2")
    assert reloading.get() == 2
    replace_file(path, b"two")
    assert reloading.get() == 2
    assert reloading.problem == "number holds no number."
    assert reloading.get() == 2
    path.unlink()
    assert reloading.get() == 0
    assert reloading.problem is not None
    replace_file(path, b"3")
    assert reloading.get() == 3
    assert reloading.problem is None


def test_an_invalid_file_is_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "number"
    replace_file(path, b"one")
    with pytest.raises(ConfigInvalid, match="no number"):
        ReloadingFile(path, load_number, gone=0)
