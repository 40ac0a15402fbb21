import json
import multiprocessing
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_agent.core.authorization import DenialReason, Denied, Principal, Role
from edge_agent.errors import ConfigInvalid
from edge_agent.security.api_keys import ApiKeyStore, add_key, load_keys, remove_key

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
UNKNOWN = Denied(DenialReason.UNKNOWN_CREDENTIAL)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def ring(path: Path, now: datetime = NOW) -> ApiKeyStore:
    return ApiKeyStore(path, lambda: now)


def test_a_new_key_has_its_role(path: Path) -> None:
    keys = {role: add_key(path, role=role, now=NOW, label=f"the {role}") for role in Role}
    assert path.stat().st_mode & 0o777 == 0o600
    held = ring(path)
    assert len(held) == 3
    for role, key in keys.items():
        assert held.identify(key.token) == Principal(f"key:{key.record.id}", role)


def test_the_file_holds_no_secret(path: Path) -> None:
    key = add_key(path, role=Role.CLINIC, now=NOW, label="ward 3")
    text = path.read_text()
    secret = key.token.split("_", 2)[2]
    assert secret not in text
    assert key.record.id in text
    assert "ward 3" in text
    assert secret not in repr(key)
    assert key.record.sha256 not in repr(key)
    assert re.fullmatch(r"hilum_[0-9a-f]{10}_[A-Za-z0-9_-]{43}", key.token)


def test_no_two_keys_are_alike(path: Path) -> None:
    tokens = [add_key(path, role=Role.VIEWER, now=NOW).token for _ in range(5)]
    assert len({token.split("_", 2)[2] for token in tokens}) == 5
    assert len(load_keys(path)) == 5


def test_wrong_keys_are_unknown(path: Path) -> None:
    key = add_key(path, role=Role.ADMIN, now=NOW)
    other = add_key(path, role=Role.VIEWER, now=NOW)
    held = ring(path)
    secret = other.token.split("_", 2)[2]
    # The id exists, so the log may name it; the caller gets the same error.
    assert held.identify(f"hilum_{key.record.id}_{secret}") == Denied(
        DenialReason.UNKNOWN_CREDENTIAL, key.record.actor
    )
    for token in (
        "",
        "hilum",
        f"hilum_0123456789_{secret}",
        key.token[:-1],
        key.token + "A",
        key.token + "\n",
        " " + key.token,
        key.token.upper(),
        key.record.sha256,
        key.token.replace("_", "-", 1),
        "hilum_" + key.record.id + "_" + "é" * 43,
    ):
        assert held.identify(token) == UNKNOWN, token


def test_a_key_expires(path: Path) -> None:
    key = add_key(path, role=Role.CLINIC, now=NOW, lifetime=timedelta(days=1))
    late = NOW + timedelta(days=1)
    assert ring(path, late - timedelta(seconds=1)).identify(key.token) == Principal(
        key.record.actor, Role.CLINIC
    )
    assert ring(path, late).identify(key.token) == Denied(
        DenialReason.EXPIRED_CREDENTIAL, key.record.actor
    )


def test_added_and_removed_keys_count_at_once(path: Path) -> None:
    first = add_key(path, role=Role.CLINIC, now=NOW)
    held = ring(path)
    second = add_key(path, role=Role.VIEWER, now=NOW)
    assert isinstance(held.identify(second.token), Principal)
    assert remove_key(path, first.record.id) == first.record
    assert held.identify(first.token) == UNKNOWN
    assert isinstance(held.identify(second.token), Principal)
    path.unlink()
    assert held.identify(second.token) == UNKNOWN
    assert len(held) == 0


def test_a_mistake_while_editing_leaves_the_keys_in_force(path: Path) -> None:
    key = add_key(path, role=Role.CLINIC, now=NOW)
    held = ring(path)
    good = path.read_text()
    path.write_text(good[:-5])
    assert isinstance(held.identify(key.token), Principal)
    assert held.problem is not None
    assert "damaged" in held.problem
    path.write_text(good)
    path.chmod(0o644)
    assert isinstance(held.identify(key.token), Principal)
    assert "by others" in (held.problem or "")
    path.chmod(0o600)
    assert isinstance(held.identify(key.token), Principal)
    assert held.problem is None


def damaged(path: Path, **changes: object) -> None:
    fields = json.loads(path.read_text())
    fields["keys"][0].update(changes)
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"role": "root"}, "keys.0.role"),
        ({"sha256": "00"}, "keys.0.sha256"),
        ({"id": "../../etc"}, "keys.0.id"),
        ({"expires": "2026-05-04T12:00:00"}, "keys.0.expires"),  # without a zone
        ({"patient": "Doe"}, "keys.0.patient"),
    ],
)
def test_damaged_files_are_refused_without_repeating_them(
    path: Path, changes: dict[str, object], text: str
) -> None:
    add_key(path, role=Role.CLINIC, now=NOW)
    damaged(path, **changes)
    with pytest.raises(ConfigInvalid, match=text) as caught:
        load_keys(path)
    assert str(next(iter(changes.values()))) not in caught.value.message.replace(str(path), "")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', "\xff"])
def test_other_files_are_refused_and_never_overwritten(path: Path, text: str) -> None:
    path.write_text(text, encoding="latin-1")
    path.chmod(0o600)
    for act in (
        lambda: load_keys(path),
        lambda: add_key(path, role=Role.VIEWER, now=NOW),
        lambda: remove_key(path, "0123456789"),
        lambda: ring(path),
    ):
        with pytest.raises(ConfigInvalid, match="damaged"):
            act()
    assert path.read_text(encoding="latin-1") == text


def test_files_that_others_can_read_are_refused(path: Path) -> None:
    add_key(path, role=Role.CLINIC, now=NOW)
    path.chmod(0o644)
    with pytest.raises(ConfigInvalid, match="by others"):
        ring(path)
    with pytest.raises(ConfigInvalid, match="by others"):
        add_key(path, role=Role.CLINIC, now=NOW)


def test_two_records_of_one_id_are_refused(path: Path) -> None:
    add_key(path, role=Role.CLINIC, now=NOW)
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({"version": 1, "keys": fields["keys"] * 2}))
    with pytest.raises(ConfigInvalid, match="same id"):
        load_keys(path)


@pytest.mark.parametrize("label", ["two\nlines", "\x1b[31m", "x" * 81])
def test_labels_are_one_short_line(path: Path, label: str) -> None:
    with pytest.raises(ConfigInvalid, match="cannot be created"):
        add_key(path, role=Role.CLINIC, now=NOW, label=label)
    assert not path.exists()


def test_an_absent_key_cannot_be_removed(path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="no API key file"):
        remove_key(path, "0123456789")
    add_key(path, role=Role.CLINIC, now=NOW)
    with pytest.raises(ConfigInvalid, match="no key '0123456789'"):
        remove_key(path, "0123456789")


def test_an_absent_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="cannot be written: No such file"):
        add_key(tmp_path / "absent" / "keys.json", role=Role.CLINIC, now=NOW)


def add_some(path: Path) -> None:
    for _ in range(5):
        add_key(path, role=Role.VIEWER, now=NOW)


def test_concurrent_processes_lose_no_key(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=add_some, args=(path,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(load_keys(path)) == 10
