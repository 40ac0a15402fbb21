"""Any change to a finished audit log's database is found, at the first changed entry."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.audit.database import DATABASE
from edge_agent.audit.log import AuditLimits, AuditLog
from edge_agent.audit.store import ANCHOR
from edge_agent.audit.verify import AuditVerdict, verify
from edge_agent.core.audit_chain import make_access_event
from edge_agent.core.authorization import Action, Principal, Role
from tests.support.agents.audit_logs import read_lines

CALLER = Principal("key:0123456789", Role.CLINIC)
ENTRIES = 11


@pytest.fixture(scope="module")
def complete_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a log of 11 entries, whose rows are all in the main file."""
    folder = tmp_path_factory.mktemp("audit") / "log"
    log = AuditLog(
        folder,
        utc_now=lambda: datetime.now(UTC),
        box_id="ab" * 16,
        limits=AuditLimits(gather_s=0, reserve_entries=0),
    )
    for number in range(ENTRIES - 2):
        log.record(make_access_event(CALLER, Action.DETECT, request=f"{number:032x}"))
    assert log.close() == 0
    verdict = verify(folder)
    assert verdict.is_intact
    assert verdict.head.count == ENTRIES
    return folder


@pytest.fixture
def copy(complete_log: Path, tmp_path: Path) -> Callable[[], Path]:
    number = iter(range(10**6))
    return lambda: shutil.copytree(complete_log, tmp_path / str(next(number)))


def change(folder: Path, *statements: tuple[str, tuple[object, ...]]) -> None:
    with closing(sqlite3.connect(folder / DATABASE)) as database:
        for statement, parameters in statements:
            database.execute(statement, parameters)
        database.commit()


def set_line(seq: int, line: bytes) -> tuple[str, tuple[object, ...]]:
    return "UPDATE entry SET line = ? WHERE seq = ?", (line, seq)


def broken_at(verdict: AuditVerdict) -> int:
    assert verdict.broken is not None, verdict.describe()
    assert verdict.broken.file == DATABASE
    return verdict.broken.line


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_other_value_of_any_byte_is_found(complete_log: Path, data: st.DataObject) -> None:
    seq = data.draw(st.integers(0, ENTRIES - 1))
    line = read_lines(complete_log)[seq]
    offset = data.draw(st.integers(0, len(line) - 1))
    # A row that begins with a zero byte is a reserved one: then the entries after it are missing.
    least = 1 if offset == 0 else 0
    value = data.draw(st.integers(least, 255).filter(lambda it: it != line[offset]))
    damaged = line[:offset] + bytes([value]) + line[offset + 1 :]
    try:
        change(complete_log, set_line(seq, damaged))
        assert broken_at(verify(complete_log)) == seq
    finally:
        change(complete_log, set_line(seq, line))
    assert verify(complete_log).is_intact


@pytest.mark.parametrize("seq", range(ENTRIES))
def test_a_removed_entry_is_found(copy: Callable[[], Path], seq: int) -> None:
    for statement in (
        "DELETE FROM entry WHERE seq = ?",
        "UPDATE entry SET line = x'00' WHERE seq = ?",
    ):
        folder = copy()
        change(folder, (statement, (seq,)))
        verdict = verify(folder)
        assert not verdict.is_intact
        assert broken_at(verdict) in (seq, seq + 1)


@pytest.mark.parametrize("seq", range(ENTRIES - 1))
def test_two_entries_that_change_places_are_found(copy: Callable[[], Path], seq: int) -> None:
    folder = copy()
    lines = read_lines(folder)
    change(folder, set_line(seq, lines[seq + 1]), set_line(seq + 1, lines[seq]))
    assert broken_at(verify(folder)) == seq


def test_entries_whose_rows_were_renumbered_are_found(copy: Callable[[], Path]) -> None:
    folder = copy()
    change(
        folder,
        ("DELETE FROM entry WHERE seq >= ?", (ENTRIES,)),
        ("UPDATE entry SET seq = -seq - 1", ()),
        ("UPDATE entry SET seq = 100 - seq", ()),
    )
    assert not verify(folder).is_intact


@pytest.mark.parametrize("count", range(ENTRIES))
def test_a_tail_that_was_cut_off_is_found(copy: Callable[[], Path], count: int) -> None:
    folder = copy()
    change(folder, ("DELETE FROM entry WHERE seq >= ?", (count,)))
    verdict = verify(folder)
    assert broken_at(verdict) == count
    assert f"entries {count} to {ENTRIES - 1} are missing from here on" in verdict.describe()


def test_a_truncated_database_is_found(copy: Callable[[], Path]) -> None:
    folder = copy()
    data = (folder / DATABASE).read_bytes()
    for size in range(0, len(data) - 90 * 4096, 997):
        (folder / DATABASE).write_bytes(data[:size])
        assert not verify(folder).is_intact, size


@settings(max_examples=150, deadline=None)
@given(offset=st.integers(0, 5 * 4096 - 1), length=st.integers(1, 600), value=st.integers(0, 255))
def test_overwritten_bytes_of_the_file_are_found_or_change_nothing(
    complete_log: Path, offset: int, length: int, value: int
) -> None:
    path = complete_log / DATABASE
    data = path.read_bytes()
    before = read_lines(complete_log)
    try:
        path.write_bytes(data[:offset] + bytes([value]) * length + data[offset + length :])
        if verify(complete_log).is_intact:
            assert read_lines(complete_log) == before
    finally:
        path.write_bytes(data)


@settings(max_examples=100, deadline=None)
@given(offset=st.integers(0, 5 * 4096 - 1), length=st.integers(1, 600), value=st.integers(0, 255))
def test_the_agent_starts_with_any_damage_and_keeps_the_damaged_file(
    complete_log: Path,
    tmp_path_factory: pytest.TempPathFactory,
    offset: int,
    length: int,
    value: int,
) -> None:
    folder = shutil.copytree(complete_log, tmp_path_factory.mktemp("damaged") / "log")
    data = (folder / DATABASE).read_bytes()
    damaged = data[:offset] + bytes([value]) * length + data[offset + length :]
    (folder / DATABASE).write_bytes(damaged)
    limits = AuditLimits(gather_s=0, retry_s=0.001, reserve_entries=0)
    log = AuditLog(folder, utc_now=lambda: datetime.now(UTC), box_id="ab" * 16, limits=limits)
    log.record(make_access_event(CALLER, Action.DETECT, request="f" * 32))
    assert log.flush(30)
    log.require()
    assert log.close() == 0
    assert b"f" * 32 in b"".join(read_lines(folder)[-2:])
    aside = [*folder.glob("audit.db.damaged-*Z"), *folder.glob("other-box-*Z/audit.db")]
    if verify(folder).is_intact and not aside:
        assert read_lines(folder)[:ENTRIES] == read_lines(complete_log)
    shutil.rmtree(folder)


def test_a_removed_database_is_found(copy: Callable[[], Path]) -> None:
    folder = copy()
    (folder / DATABASE).unlink()
    assert "entries 0 to 10 are missing" in verify(folder).describe()


def test_without_its_anchor_the_log_is_not_proven(copy: Callable[[], Path]) -> None:
    folder = copy()
    (folder / ANCHOR).unlink()
    verdict = verify(folder)
    assert not verdict.is_intact
    assert "NOT PROVEN" in verdict.describe()


def test_an_anchor_of_another_log_is_found(copy: Callable[[], Path], tmp_path: Path) -> None:
    folder = copy()
    other = AuditLog(
        tmp_path / "other",
        utc_now=lambda: datetime.now(UTC),
        limits=AuditLimits(reserve_entries=0),
    )
    other.close()
    shutil.copyfile(tmp_path / "other" / ANCHOR, folder / ANCHOR)
    assert "not the entry that the anchor names" in verify(folder).describe()
