"""Exports, and the removal of old entries that keeps the rest provable."""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_agent.audit.database import DATABASE
from edge_agent.audit.export import ExportFailed, export
from edge_agent.audit.export_cursor import EXPORT_CURSOR
from edge_agent.audit.log import AuditLimits, AuditLog
from edge_agent.audit.retention import ENTRY_BYTES, RetentionRules
from edge_agent.audit.segments import ANCHOR, list_segments
from edge_agent.audit.show import read_last_entries
from edge_agent.audit.verify import verify
from edge_agent.core.audit_chain import AuditEvent, Marker, make_access_event
from edge_agent.core.authorization import Action, Principal, Role
from tests.support.agents.audit_logs import read_entries, read_lines, write_segments
from tests.support.system.disks import fill_disk, small_disk

CLINIC = Principal("key:0123456789", Role.CLINIC)
BOX = "0123456789abcdef" * 2
LIMITS = {
    "gather_s": 0.0,
    "retry_s": 0.01,
    "reserve_entries": 2100,
    "reserve_pause_s": 0.0,
    "reserve_retry_s": 0.005,
}


class Calendar:
    """The time of entries, which a test sets."""

    def __init__(self) -> None:
        self.now = datetime(2026, 5, 4, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def calendar() -> Calendar:
    return Calendar()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def reopen(folder: Path, calendar: Calendar) -> Iterator[Callable[..., AuditLog]]:
    logs: list[AuditLog] = []

    def open_it(
        *, days: int | None = None, max_bytes: int = 1 << 30, **changes: object
    ) -> AuditLog:
        for log in logs:
            log.close()
        rules = RetentionRules(days, max_bytes)
        limits = AuditLimits(**{**LIMITS, "retention": rules, **changes})  # type: ignore[arg-type]
        log = AuditLog(folder, utc_now=calendar, box_id=BOX, limits=limits)
        logs.append(log)
        return log

    yield open_it
    for log in logs:
        log.close()


def record(log: AuditLog, count: int) -> None:
    for number in range(count):
        log.record(make_access_event(CLINIC, Action.DETECT, request=f"{number:08x}"))
        if number % 1000 == 999:
            assert log.flush(30)
    assert log.flush(30)


def wait_until(holds: Callable[[], bool]) -> None:
    turn = threading.Event()
    while not holds():
        turn.wait(0.001)


def first_entry(folder: Path) -> int:
    return int(read_entries(folder)[0]["seq"])


def test_an_export_can_be_verified_on_its_own(
    reopen: Callable[..., AuditLog], folder: Path, tmp_path: Path
) -> None:
    log, target = reopen(), tmp_path / "export"
    record(log, 3)
    first = export(folder, target)
    assert (first.first, first.entries) == (0, 4)
    assert first.file is not None
    wait_until(lambda: log.status.exported == 4)
    record(log, 3)
    second = export(folder, target)
    assert (second.first, second.entries) == (4, 4)
    assert [path.name for path in list_segments(target)] == [
        "audit-000000000000.jsonl",
        "audit-000000000004.jsonl",
    ]
    exported = b"".join(path.read_bytes() for path in list_segments(target))
    assert b"".join(read_lines(folder)).startswith(exported)
    verdict = verify(target, box_id=BOX)
    assert verdict.is_intact, verdict.describe()
    assert verdict.head == second.head
    for file in list_segments(target):
        assert verify(file).is_intact
    assert {path.stat().st_mode & 0o777 for path in target.iterdir()} == {0o600}


def test_an_export_states_the_next_time_in_the_chain(
    reopen: Callable[..., AuditLog], folder: Path, tmp_path: Path
) -> None:
    log = reopen()
    record(log, 3)
    done = export(folder, tmp_path / "export")
    wait_until(lambda: log.status.exported == 4)
    log.close()
    reopen().close()  # It is not stated again.
    stated = [entry for entry in read_entries(folder) if entry["action"] == Marker.EXPORTED]
    assert [(entry["count"], entry["digest"]) for entry in stated] == [(4, done.head.hash)]
    assert verify(folder, box_id=BOX).is_intact


def test_a_full_disk_does_not_keep_a_log_from_being_exported(
    tmp_path: Path, calendar: Calendar
) -> None:
    with small_disk(tmp_path / "disk", 16 << 20) as disk:
        limits = AuditLimits(**LIMITS)  # type: ignore[arg-type]
        log = AuditLog(disk / "audit", utc_now=calendar, limits=limits)
        record(log, 10)
        fill_disk(disk)
        assert export(disk / "audit", tmp_path / "export").entries == 11
        wait_until(lambda: log.status.exported == 11)
        log.close()


def test_an_export_whose_cursor_was_not_moved_is_continued(
    reopen: Callable[..., AuditLog], folder: Path, tmp_path: Path
) -> None:
    log = reopen()
    record(log, 3)
    export(folder, tmp_path / "export")
    (folder / EXPORT_CURSOR).unlink()
    record(log, 3)
    assert export(folder, tmp_path / "export").first == 4
    assert verify(tmp_path / "export").is_intact


def test_nothing_new_is_not_exported(
    reopen: Callable[..., AuditLog], folder: Path, tmp_path: Path
) -> None:
    reopen().close()
    assert export(folder, tmp_path / "export").entries == 2
    again = export(folder, tmp_path / "export")
    assert again.file is None
    assert len(list_segments(tmp_path / "export")) == 1


def test_a_truncated_export_does_not_pass(
    reopen: Callable[..., AuditLog], folder: Path, tmp_path: Path
) -> None:
    reopen().close()
    done = export(folder, tmp_path / "export")
    assert done.file is not None
    done.file.write_bytes(b"".join(done.file.read_bytes().splitlines(keepends=True)[:-1]))
    assert "entries 1 to 1 are missing" in verify(tmp_path / "export").describe()
    (tmp_path / "export" / ANCHOR).unlink()
    assert not verify(tmp_path / "export").is_intact


def test_a_broken_log_is_not_exported(
    reopen: Callable[..., AuditLog], folder: Path, tmp_path: Path
) -> None:
    log = reopen()
    record(log, 3)
    log.close()
    with closing(sqlite3.connect(folder / DATABASE)) as database:
        database.execute("UPDATE entry SET line = replace(line, 'clinic', 'viewer') WHERE seq = 2")
        database.commit()
    with pytest.raises(ExportFailed, match="broken at entry 2"):
        export(folder, tmp_path / "export")
    assert list((tmp_path / "export").iterdir()) == []


def test_another_logs_export_is_not_continued(
    reopen: Callable[..., AuditLog], folder: Path, tmp_path: Path
) -> None:
    reopen().close()
    events = [AuditEvent(Marker.OPENED)] * 5
    write_segments(tmp_path / "export", events, per_file=5)
    with pytest.raises(ExportFailed, match="another log's export"):
        export(folder, tmp_path / "export")


def test_a_log_in_segments_and_its_continuation_are_exported_together(
    reopen: Callable[..., AuditLog], folder: Path, tmp_path: Path
) -> None:
    write_segments(folder, [AuditEvent(Marker.OPENED)] * 5, per_file=2)
    reopen().close()
    assert export(folder, tmp_path / "export").entries == 7
    assert verify(tmp_path / "export", box_id=BOX).is_intact


def test_exported_entries_are_removed_after_their_days_and_the_rest_is_proven(
    reopen: Callable[..., AuditLog], folder: Path, tmp_path: Path, calendar: Calendar
) -> None:
    log = reopen(days=30)
    record(log, 1500)
    calendar.now += timedelta(days=31)
    record(log, 10)
    export(folder, tmp_path / "export")
    wait_until(lambda: first_entry(folder) == 1400)
    assert log.close() == 0
    verdict = verify(folder, box_id=BOX)
    assert verdict.is_intact, verdict.describe()
    assert verdict.first == 1400
    stated = [e["count"] for e in read_entries(folder) if e["action"] == Marker.REMOVED]
    assert stated == [700, 1400]
    export(folder, tmp_path / "export")
    assert verify(tmp_path / "export", box_id=BOX).is_intact
    reopen(days=30).close()
    assert verify(folder, box_id=BOX).is_intact


def test_entries_that_were_not_exported_or_are_younger_are_kept(
    reopen: Callable[..., AuditLog], folder: Path, tmp_path: Path, calendar: Calendar
) -> None:
    log = reopen(days=30)
    record(log, 1500)
    calendar.now += timedelta(days=29)
    export(folder, tmp_path / "export")
    wait_until(lambda: log.status.exported > 0)
    record(log, 1500)
    calendar.now += timedelta(days=365)
    log.close()
    log = reopen(days=500)
    record(log, 800)
    log.close()
    assert first_entry(folder) == 0
    assert verify(folder).is_intact


def test_beyond_its_size_the_log_drops_the_oldest_entries_and_says_so(
    reopen: Callable[..., AuditLog], folder: Path
) -> None:
    log = reopen(max_bytes=2000 * ENTRY_BYTES)
    record(log, 6000)
    wait_until(lambda: log.status.reserved > 1400 and first_entry(folder) >= 4200)
    size_bytes = log.status.size_bytes
    record(log, 6000)
    wait_until(lambda: log.status.reserved > 1400 and first_entry(folder) >= 10_500)
    assert log.status.size_bytes <= size_bytes + 3000 * ENTRY_BYTES
    assert log.close() == 0
    verdict = verify(folder, box_id=BOX)
    assert verdict.is_intact, verdict.describe()
    assert any(e["action"] == Marker.REMOVED_UNEXPORTED for e in read_entries(folder))


def test_a_removal_that_no_entry_states_is_found(
    reopen: Callable[..., AuditLog], folder: Path
) -> None:
    log = reopen()
    record(log, 30)
    log.close()
    line = json.loads(read_lines(folder)[9])
    with closing(sqlite3.connect(folder / DATABASE)) as database:
        database.execute("DELETE FROM entry WHERE seq < 10")
        database.execute("UPDATE meta SET value = 10 WHERE name = 'base_count'")
        database.execute("UPDATE meta SET value = ? WHERE name = 'base_hash'", (line["hash"],))
        database.commit()
    verdict = verify(folder)
    assert "entries 0 to 9 are missing before it, and no entry says" in verdict.describe()
    assert not verdict.is_intact


def test_on_a_full_disk_the_rows_of_old_entries_are_used_again(
    tmp_path: Path, calendar: Calendar
) -> None:
    with small_disk(tmp_path / "disk", 16 << 20) as disk:
        rules = RetentionRules(None, 900 * ENTRY_BYTES)
        changes = {**LIMITS, "reserve_entries": 700, "reserve_retry_s": 3600.0}
        limits = AuditLimits(**changes, retention=rules)  # type: ignore[arg-type]
        log = AuditLog(disk / "audit", utc_now=calendar, limits=limits)
        record(log, 1000)
        fill_disk(disk)
        for number in range(3000):
            log.require()
            log.record(make_access_event(CLINIC, Action.DETECT, request=f"{number:08x}"))
            assert log.flush(30)
        assert log.close() == 0
        assert verify(disk / "audit").is_intact


def test_the_last_entries_are_shown(
    reopen: Callable[..., AuditLog], folder: Path, tmp_path: Path
) -> None:
    write_segments(folder, [AuditEvent(Marker.OPENED)] * 5, per_file=2)
    log = reopen()
    record(log, 3)
    assert [entry.fields["seq"] for entry in read_last_entries(folder, 2)] == [7, 8]
    shown = read_last_entries(folder, 100)
    assert [entry.fields["seq"] for entry in shown] == list(range(9))
    assert [entry.text.encode() + b"\n" for entry in shown] == read_lines(folder)
    with pytest.raises(FileNotFoundError):
        read_last_entries(tmp_path, 1)
