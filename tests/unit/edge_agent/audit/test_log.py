import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent.audit.anchor import read_anchor_file
from edge_agent.audit.database import DATABASE, ROW_BYTES
from edge_agent.audit.log import AuditLimits, AuditLog
from edge_agent.audit.store import ANCHOR
from edge_agent.audit.verify import verify
from edge_agent.core.audit_chain import (
    AuditEvent,
    ChainHead,
    Marker,
    append_entry,
    make_access_event,
)
from edge_agent.core.authorization import LOOPBACK, Action, DenialReason, Denied, Principal, Role
from edge_agent.errors import AuditUnavailable, ConfigInvalid
from hilum.codes import ErrorCode
from tests.support.agents.audit_logs import read_entries, write_segments
from tests.support.system.disks import fill_disk, small_disk

CLINIC = Principal("key:0123456789", Role.CLINIC)
STRANGER = Denied(DenialReason.UNKNOWN_CREDENTIAL)
QUICK = {"gather_s": 0.0, "retry_s": 0.01, "reserve_entries": 2100, "reserve_pause_s": 0.0}
BOX, OTHER_BOX = "0123456789abcdef" * 2, "fedcba9876543210" * 2


def utc_now() -> datetime:
    return datetime.now(UTC)


class Clock:
    """A monotonic clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def reopen(folder: Path) -> Iterator[Callable[..., AuditLog]]:
    logs: list[AuditLog] = []

    def open_it(**changes: object) -> AuditLog:
        for log in logs:
            log.close()
        clock = changes.pop("clock", Clock())
        box_id = changes.pop("box_id", "")
        limits = AuditLimits(**{**QUICK, **changes})  # type: ignore[arg-type]
        log = AuditLog(folder, utc_now=utc_now, box_id=box_id, monotonic_s=clock, limits=limits)  # type: ignore[arg-type]
        logs.append(log)
        return log

    yield open_it
    for log in logs:
        log.close()


def actions(folder: Path) -> list[object]:
    return [entry["action"] for entry in read_entries(folder)]


def detect(log: AuditLog, number: int = 0) -> None:
    log.require()
    log.record(make_access_event(CLINIC, Action.DETECT, request=f"{number:08x}"))


def test_accesses_are_there_after_a_clean_stop(
    reopen: Callable[..., AuditLog], folder: Path
) -> None:
    log = reopen()
    detect(log)
    log.record(make_access_event(STRANGER, Action.PAGE))
    log.record(make_access_event(LOOPBACK, Action.DETECT, ErrorCode.TOO_SMALL))
    assert log.close() == 0
    assert [(e["action"], e["actor"], e["role"], e["outcome"]) for e in read_entries(folder)] == [
        ("log_opened", "agent", "", "ok"),
        ("detect", "key:0123456789", "clinic", "ok"),
        ("page", "unknown", "", "unknown_credential"),
        ("detect", "loopback", "clinic", "too_small"),
        ("log_closed", "agent", "", "ok"),
    ]
    assert verify(folder).is_intact


def test_all_files_are_private_to_the_agent(reopen: Callable[..., AuditLog], folder: Path) -> None:
    log = reopen()
    detect(log)
    assert log.flush(30)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    assert folder.stat().st_mode & 0o777 == 0o700


def test_flush_waits_until_entries_are_durable(
    reopen: Callable[..., AuditLog], folder: Path
) -> None:
    log = reopen(gather_s=3600)
    detect(log)
    assert log.status.waiting == 1
    assert log.flush(30)
    assert log.status.waiting == 0
    assert actions(folder)[-1] == "detect"
    anchor = read_anchor_file(folder / ANCHOR)
    assert anchor is not None
    assert anchor.count == 2
    assert log.flush(0)


def test_entries_of_many_threads_are_all_kept_in_order(
    reopen: Callable[..., AuditLog], folder: Path
) -> None:
    log = reopen()

    def work(worker: int) -> None:
        for number in range(100):
            detect(log, worker << 16 | number)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.close() == 0
    requests = [int(str(e["request"]), 16) for e in read_entries(folder) if e["action"] == "detect"]
    for worker in range(8):
        assert [it & 0xFFFF for it in requests if it >> 16 == worker] == list(range(100))
    assert verify(folder).is_intact


def test_the_chain_goes_on_over_restarts(reopen: Callable[..., AuditLog], folder: Path) -> None:
    for run in range(3):
        log = reopen()
        for number in range(4):
            detect(log, run * 10 + number)
            assert log.flush(30)
    assert log.close() == 0
    assert actions(folder) == (["log_opened", *["detect"] * 4, "log_closed"]) * 3
    assert verify(folder).head.count == 18


def test_no_entry_is_longer_than_a_reserved_row() -> None:
    """All values are the longest of their kind; a billion entries came before."""
    outcome = max((*ErrorCode, *DenialReason), key=len)
    longest = AuditEvent(
        max(Action, key=len),
        outcome,
        "cert:" + "x" * 128,
        max(Role, key=len),
        "f" * 32,
        "f" * 12,
        10**9,
    )
    removed = AuditEvent(max(Marker, key=len), outcome, count=10**9, digest="f" * 64, box="f" * 32)
    for event in (longest, removed):
        line, _ = append_entry(ChainHead(10**9, "0" * 64), utc_now(), event)
        assert len(line) <= ROW_BYTES


# What happens to the files of an open log


@pytest.mark.parametrize("name", [DATABASE, f"{DATABASE}-wal"])
def test_a_removed_file_of_the_open_log_is_replaced(
    reopen: Callable[..., AuditLog], folder: Path, name: str
) -> None:
    log = reopen()
    detect(log, 1)
    assert log.flush(30)
    (folder / name).unlink()
    detect(log, 2)
    assert log.close() == 0
    if name == DATABASE:
        markers = ["log_damaged", "log_entries_missing"]  # The write-ahead log was set aside.
        assert actions(folder) == [*markers, "detect", "log_closed"]
        assert "entries 0 to 1 are missing before it" in verify(folder).describe()
    else:  # Its entries are in the main file, or were moved there.
        assert actions(folder) == ["log_opened", "detect", "detect", "log_closed"]
        assert verify(folder).is_intact


def test_a_removed_anchor_of_the_open_log_is_made_again(
    reopen: Callable[..., AuditLog], folder: Path
) -> None:
    log = reopen()
    (folder / ANCHOR).unlink()
    detect(log)
    assert log.flush(30)
    assert verify(folder).is_intact


def test_a_database_that_is_damaged_while_it_is_open_is_set_aside(
    reopen: Callable[..., AuditLog], folder: Path
) -> None:
    log = reopen()
    detect(log, 1)
    wait_until(lambda: log.status.reserved > 2000)
    log.close()
    damage_rows(folder)
    log = reopen()
    detect(log, 2)
    assert log.close() == 0
    assert "log_damaged" in actions(folder)
    assert actions(folder)[-2:] == ["detect", "log_closed"]
    verdict = verify(folder)
    assert not verdict.is_intact
    assert "Set aside: audit.db.damaged-" in verdict.describe()


def damage_rows(folder: Path) -> None:
    """Overwrite every page of the database but the first ones."""
    database = folder / DATABASE
    data = bytearray(database.read_bytes())
    data[3 * 4096 :] = bytes([0xA5]) * (len(data) - 3 * 4096)
    database.write_bytes(data)


@pytest.mark.parametrize("damage", ["truncated", "another program's", "text", "empty"])
def test_a_database_that_cannot_be_opened_is_set_aside_and_the_chain_goes_on(
    reopen: Callable[..., AuditLog], folder: Path, damage: str
) -> None:
    log = reopen()
    for number in range(30):
        detect(log, number)
    assert log.close() == 0
    database = folder / DATABASE
    if damage == "truncated":
        database.write_bytes(database.read_bytes()[:6000])
    elif damage == "text":
        database.write_text("This is no database. " * 1000)
    elif damage == "empty":
        database.write_bytes(b"")
    else:
        database.unlink()
        with closing(sqlite3.connect(database)) as other:
            other.execute("CREATE TABLE patient (name TEXT)")
    log = reopen()
    detect(log, 99)
    assert log.close() == 0
    found = read_entries(folder)
    markers = ["log_damaged"] * (damage != "empty") + ["log_entries_missing"]
    assert [entry["action"] for entry in found] == [*markers, "log_opened", "detect", "log_closed"]
    assert found[0]["seq"] == 32
    assert len(list(folder.glob("audit.db.damaged-*Z"))) == (damage != "empty")
    assert "entries 0 to 31 are missing" in verify(folder).describe()


# What a power cut or an older copy leaves behind


@pytest.fixture
def older_copy(reopen: Callable[..., AuditLog], folder: Path, tmp_path: Path) -> Path:
    """A log of five entries and, returned, a copy of it with three."""
    log = reopen()
    detect(log, 1)
    detect(log, 2)
    assert log.flush(30)
    copy = shutil.copytree(folder, tmp_path / "copy")
    detect(log, 3)
    assert log.close() == 0
    return copy


def put_back(copy: Path, folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)
        if (copy / name).exists():
            shutil.copyfile(copy / name, folder / name)


def test_an_older_copy_of_the_database_leaves_a_permanent_gap(
    reopen: Callable[..., AuditLog], folder: Path, older_copy: Path
) -> None:
    put_back(older_copy, folder, DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm")
    before = verify(folder)
    assert not before.is_intact
    assert "entries 3 to 4 are missing from here on" in before.describe()
    for number in range(2):
        detect(reopen(), number)
    reopen().close()
    gap = next(e for e in read_entries(folder) if e["action"] == "log_entries_missing")
    assert (gap["seq"], gap["count"]) == (5, 2)
    assert "entries 3 to 4 are missing before it" in verify(folder).describe()


def test_entries_that_were_committed_before_their_anchor_are_kept(
    reopen: Callable[..., AuditLog], folder: Path, older_copy: Path
) -> None:
    put_back(older_copy, folder, ANCHOR)
    assert verify(folder).is_intact
    reopen().close()
    assert [e["request"] for e in read_entries(folder)][1:4] == ["00000001", "00000002", "00000003"]
    assert verify(folder).is_intact


@pytest.mark.parametrize("damage", [None, b"", b"{}", bytes(8192)])
def test_without_an_anchor_the_log_is_not_proven_until_the_agent_starts(
    reopen: Callable[..., AuditLog], folder: Path, older_copy: Path, damage: bytes | None
) -> None:
    if damage is None:
        (folder / ANCHOR).unlink()
        assert "NOT PROVEN" in verify(folder).describe()
    else:
        (folder / ANCHOR).write_bytes(damage)
        assert "the anchor is damaged" in verify(folder).describe()
    assert not verify(folder).is_intact
    reopen().close()
    assert actions(folder)[5:7] == ["log_anchor_missing", "log_opened"]
    assert verify(folder).is_intact


def test_a_torn_write_of_the_anchor_leaves_the_one_before(
    reopen: Callable[..., AuditLog], folder: Path, older_copy: Path
) -> None:
    data = (folder / ANCHOR).read_bytes()
    for slot in (0, 4096):
        torn = bytearray(data)
        torn[slot + 10 : slot + 200] = bytes(190)
        (folder / ANCHOR).write_bytes(torn)
        verdict = verify(folder)
        assert verdict.is_intact
        assert verdict.has_anchor


def test_a_chain_with_other_entries_than_the_anchor_names_is_set_aside(
    reopen: Callable[..., AuditLog], folder: Path, older_copy: Path, tmp_path: Path
) -> None:
    other = AuditLog(tmp_path / "other", utc_now=utc_now, limits=AuditLimits(reserve_entries=700))
    for number in range(10):
        detect(other, number)
    other.close()
    put_back(tmp_path / "other", folder, DATABASE, f"{DATABASE}-wal")
    assert "not the entry that the anchor names" in verify(folder).describe()
    reopen().close()
    assert actions(folder) == ["log_damaged", "log_entries_missing", "log_opened", "log_closed"]


# Logs of earlier releases


def old_events(count: int) -> list[AuditEvent]:
    accesses = [
        make_access_event(CLINIC, Action.DETECT, request=f"{number:08x}") for number in range(count)
    ]
    return [AuditEvent(Marker.OPENED), *accesses, AuditEvent(Marker.CLOSED)]


def test_a_log_in_segments_is_continued(reopen: Callable[..., AuditLog], folder: Path) -> None:
    write_segments(folder, old_events(7), per_file=4)
    assert verify(folder).is_intact
    log = reopen(box_id=BOX)
    detect(log)
    assert log.flush(30)
    verdict = verify(folder, box_id=BOX)
    assert verdict.is_intact, verdict.describe()
    assert (verdict.first, verdict.head.count, verdict.box) == (0, 11, BOX)
    reopen(box_id=BOX).close()
    assert verify(folder).is_intact
    (folder / "audit-000000000004.jsonl").unlink()
    assert "entries 4 to 7 are missing before it" in verify(folder).describe()


def test_segments_that_are_truncated_after_the_database_continued_them_are_found(
    reopen: Callable[..., AuditLog], folder: Path
) -> None:
    write_segments(folder, old_events(7), per_file=4)
    reopen().close()
    last = folder / "audit-000000000008.jsonl"
    last.unlink()
    assert "entries 8 to 8 are missing" in verify(folder).describe()


def test_segments_may_be_moved_away_after_the_database_continued_them(
    reopen: Callable[..., AuditLog], folder: Path
) -> None:
    write_segments(folder, old_events(7), per_file=4)
    reopen().close()
    for file in folder.glob("*.json*"):
        file.unlink()
    assert "entries 0 to 8 are missing before it" in verify(folder).describe()
    verdict = verify(folder, archived=True)
    assert verdict.is_intact
    assert verdict.first == 9


# The box's identity


def test_the_log_of_another_box_does_not_pass(
    reopen: Callable[..., AuditLog], folder: Path
) -> None:
    reopen(box_id=BOX).close()
    assert verify(folder, box_id=BOX).is_intact
    assert (
        f"written by box {BOX}, not by box {OTHER_BOX}"
        in verify(folder, box_id=OTHER_BOX).describe()
    )


def test_a_log_without_a_box_does_not_pass_for_one(
    reopen: Callable[..., AuditLog], folder: Path
) -> None:
    reopen().close()
    assert verify(folder).is_intact
    assert "no entry names a box" in verify(folder, box_id=BOX).describe()
    reopen(box_id=BOX).close()
    assert verify(folder, box_id=BOX).is_intact


def test_another_boxs_log_is_set_aside_and_stays_provable(
    reopen: Callable[..., AuditLog], folder: Path
) -> None:
    log = reopen(box_id=BOX)
    detect(log)
    log.close()
    reopen(box_id=OTHER_BOX).close()
    assert actions(folder) == ["log_other_box", "log_opened", "log_closed"]
    assert read_entries(folder)[0]["count"] == 3
    verdict = verify(folder, box_id=OTHER_BOX)
    assert verdict.is_intact
    (aside,) = folder.glob("other-box-*Z")
    assert aside.name in verdict.describe()
    assert verify(aside, box_id=BOX).is_intact


WRITES_UNTIL_KILLED = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from edge_agent.core.authorization import Action, Principal, Role
from edge_agent.core.audit_chain import make_access_event
from edge_agent.audit.log import AuditLimits, AuditLog
log = AuditLog(
    Path(sys.argv[1]), utc_now=lambda: datetime.now(UTC),
    limits=AuditLimits(reserve_entries=2100, reserve_pause_s=0, gather_s=0),
)
who = Principal("key:0123456789", Role.CLINIC)
for number in range(10**9):
    log.record(make_access_event(who, Action.DETECT, request=f"{number:08x}"))
    if number % 20 == 0 and log.flush():
        print(number, flush=True)
"""


def test_durable_entries_survive_a_kill(reopen: Callable[..., AuditLog], folder: Path) -> None:
    durable = -1
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITES_UNTIL_KILLED, folder], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            for line in child.stdout:
                durable = int(line)
                if durable >= 100:
                    break
            child.send_signal(signal.SIGKILL)
            child.stdout.read()
        verdict = verify(folder)
        assert verdict.is_intact, verdict.describe()
        reopen().close()
        verdict = verify(folder)
        assert verdict.is_intact, verdict.describe()
        assert verdict.torn_bytes == 0
        kept = [int(str(e["request"]), 16) for e in read_entries(folder) if e["action"] == "detect"]
        last_run = kept[len(kept) - 1 - kept[::-1].index(0) :]
        assert last_run == list(range(len(last_run)))
        assert len(last_run) > durable


# Disks that are full or failing


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that holds the smallest log and little more."""
    with small_disk(tmp_path / "disk", 16 << 20) as folder:
        yield folder


def open_on(disk: Path, **changes: object) -> AuditLog:
    limits = AuditLimits(**{**QUICK, "reserve_entries": 700, **changes})  # type: ignore[arg-type]
    return AuditLog(disk / "audit", utc_now=utc_now, limits=limits)


def detect_until_refused(log: AuditLog) -> list[str]:
    """Record accesses, one after the other, until one is refused; return their requests."""
    granted: list[str] = []
    with suppress(AuditUnavailable):
        while True:
            detect(log, len(granted))
            granted.append(f"{len(granted):08x}")
            log.flush(0.2)
    return granted


def requests(folder: Path) -> list[str]:
    return [str(e["request"]) for e in read_entries(folder) if e["action"] == "detect"]


def test_a_full_disk_refuses_nothing_while_the_reserve_lasts(disk: Path) -> None:
    log = open_on(disk)
    fill_disk(disk)
    reserved = log.status.reserved
    assert reserved >= 600
    for number in range(reserved):
        detect(log, number)
        assert log.flush(30)
    log.require()
    assert log.status.failure is None
    assert log.status.reserved == 0
    assert requests(disk / "audit") == [f"{number:08x}" for number in range(reserved)]
    assert verify(disk / "audit").is_intact
    assert log.close() == 1  # There is no row for the entry that states it.


def test_a_full_disk_refuses_when_the_reserve_is_used_up_and_loses_no_granted_access(
    disk: Path,
) -> None:
    log = open_on(disk, queue_size=50)
    ballast = fill_disk(disk)
    granted = detect_until_refused(log)
    assert len(granted) >= 600
    with pytest.raises(AuditUnavailable, match="cannot be written: No space left"):
        log.require()
    for _ in range(200):  # Accesses that run already are still recorded, within bounds.
        log.record(make_access_event(CLINIC, Action.MODEL))
    status = log.status
    assert status.waiting == 100  # Twice the queue, then no more.
    ballast.unlink()
    assert log.flush(30)
    log.require()
    detect(log)
    assert log.close() == 0
    assert requests(disk / "audit")[:-1] == granted
    lost = [e["count"] for e in read_entries(disk / "audit") if e["action"] == "log_entries_lost"]
    assert lost == [status.lost]
    assert verify(disk / "audit").is_intact


def test_a_disk_that_stays_full_leaves_an_intact_log_and_counts_the_rest(disk: Path) -> None:
    log = open_on(disk, queue_size=50)
    fill_disk(disk)
    detect_until_refused(log)
    for _ in range(200):
        log.record(make_access_event(CLINIC, Action.MODEL))
    assert log.close() == 100
    assert verify(disk / "audit").is_intact


@pytest.mark.parametrize("ending", ["stopped", "killed"])
def test_the_log_opens_on_a_full_disk_and_grants_accesses(disk: Path, ending: str) -> None:
    if ending == "stopped":
        open_on(disk).close()
    else:
        opens = f"{OPENS_A_LOG}os.kill(os.getpid(), signal.SIGKILL)"
        subprocess.run([sys.executable, "-c", opens, disk / "audit"], check=False)
    ballast = fill_disk(disk)
    log = open_on(disk, reserve_retry_s=0.01)
    for number in range(300):
        detect(log, number)
    assert log.flush(30)
    log.require()
    if ending == "stopped":
        with pytest.raises(OSError, match="locked"):
            verify(disk / "audit")
    ballast.unlink()
    wait_until(lambda: is_readable(disk / "audit", log))
    assert log.close() == 0
    assert len(requests(disk / "audit")) > 300
    assert verify(disk / "audit").is_intact


def is_readable(folder: Path, log: AuditLog) -> bool:
    detect(log, 300)
    assert log.flush(30)
    with suppress(OSError):
        return verify(folder).is_intact
    return False


OPENS_A_LOG = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from edge_agent.audit.log import AuditLimits, AuditLog
log = AuditLog(
    Path(sys.argv[1]), utc_now=lambda: datetime.now(UTC), limits=AuditLimits(reserve_entries=700)
)
"""


def test_the_log_opens_on_a_full_disk_after_the_reserve_was_used_up_and_refuses(
    disk: Path,
) -> None:
    log = open_on(disk)
    ballast = fill_disk(disk)
    detect_until_refused(log)
    log.close()
    log = open_on(disk)
    with pytest.raises(AuditUnavailable, match="No space left"):
        log.require()
    ballast.unlink()
    assert log.flush(30)
    log.require()
    assert log.close() == 0
    assert verify(disk / "audit").is_intact


@pytest.mark.parametrize("damage", [b"", b"text", bytes(8192), b"SQLite format 3\0" + bytes(9000)])
def test_a_damaged_database_keeps_the_entries_in_its_write_ahead_log(
    folder: Path, damage: bytes
) -> None:
    opens = f"{OPENS_A_LOG}os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", opens, folder], check=False)
    wal = (folder / f"{DATABASE}-wal").read_bytes()
    assert b"log_opened" in wal
    (folder / DATABASE).write_bytes(damage)
    assert not verify(folder).is_intact
    assert (folder / f"{DATABASE}-wal").read_bytes() == wal
    log = AuditLog(folder, utc_now=utc_now, limits=AuditLimits(reserve_entries=0))
    log.close()
    assert actions(folder)[0] == "log_damaged"
    (kept,) = folder.glob("audit.db.damaged-*-wal")
    assert kept.read_bytes() == wal


def test_a_damaged_database_on_a_full_disk_refuses_until_there_is_room(disk: Path) -> None:
    opens = f"{OPENS_A_LOG}os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", opens, disk / "audit"], check=False)
    (disk / "audit" / DATABASE).write_text("This is no database. " * 1000)
    ballast = fill_disk(disk)
    log = open_on(disk)
    with pytest.raises(AuditUnavailable, match="No space left"):
        log.require()
    ballast.unlink()
    assert log.flush(30)
    log.require()
    assert log.close() == 0
    assert actions(disk / "audit") == [
        "log_damaged",
        "log_entries_missing",
        "log_opened",
        "log_closed",
    ]


def test_the_reserve_is_extended_when_the_disk_has_room_again(disk: Path) -> None:
    log = open_on(disk, reserve_entries=2100, reserve_retry_s=0.01)
    wait_until(lambda: log.status.reserved > 1400)
    ballast = fill_disk(disk)
    for number in range(1400):
        detect(log, number)
    assert log.flush(30)
    assert log.status.reserved <= 700
    ballast.unlink()
    wait_until(lambda: log.status.reserved > 1400)
    assert log.close() == 0


def test_a_disk_that_is_too_small_for_the_reserve_gets_as_much_as_fits(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = open_on(disk, reserve_entries=100_000)
    wait_until(lambda: "no room for the audit log's reserve" in caplog.text)
    assert 7000 < log.status.reserved < 14_000
    detect(log)
    assert log.flush(30)
    assert log.close() == 0
    assert verify(disk / "audit").is_intact


def test_the_log_can_be_verified_while_the_agent_runs_on_a_full_disk(disk: Path) -> None:
    log = open_on(disk)
    fill_disk(disk)
    for number in range(50):
        detect(log, number)
        assert log.flush(30)
        assert verify(disk / "audit").is_intact
    log.close()
    assert verify(disk / "audit").is_intact  # The index of the write-ahead log has no room now.


def test_a_failing_folder_refuses_and_recovers(
    reopen: Callable[..., AuditLog], folder: Path
) -> None:
    log = reopen()
    away = folder.with_name("away")
    folder.rename(away)  # The open files could still be written.
    detect(log, 1)
    wait_until(lambda: log.status.failure is not None)
    with pytest.raises(AuditUnavailable, match="No such file"):
        log.require()
    away.rename(folder)
    assert log.flush(30)
    log.require()
    detect(log, 2)
    assert log.close() == 0
    assert actions(folder) == ["log_opened", "detect", "detect", "log_closed"]
    assert verify(folder).is_intact


def wait_until(holds: Callable[[], bool]) -> None:
    turn = threading.Event()
    while not holds():
        turn.wait(0.001)


def test_a_full_queue_refuses_accesses(reopen: Callable[..., AuditLog]) -> None:
    log = reopen(queue_size=5, gather_s=3600)
    for number in range(5):
        detect(log, number)
    with pytest.raises(AuditUnavailable, match="keep up") as caught:
        log.require()
    assert caught.value.code is ErrorCode.AUDIT_UNAVAILABLE
    assert caught.value.hint
    assert log.flush(30)
    log.require()


def test_after_closing_no_access_is_granted(reopen: Callable[..., AuditLog]) -> None:
    log = reopen()
    assert log.close() == 0
    assert log.close() == 0
    with pytest.raises(AuditUnavailable):
        log.require()
    log.record(make_access_event(CLINIC, Action.DETECT))
    assert log.status.lost == 1


# Who may write, and what must not fill the disk


def test_only_one_process_writes(reopen: Callable[..., AuditLog], folder: Path) -> None:
    reopen()
    with pytest.raises(ConfigInvalid, match="Another process"):
        AuditLog(folder, utc_now=utc_now)
    reopen()  # the refused one holds nothing


def test_a_folder_that_others_can_change_is_refused(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigInvalid, match="changed by others"):
        AuditLog(folder, utc_now=utc_now)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigInvalid, match="cannot be used: Not a directory"):
        AuditLog(tmp_path / "file" / "audit", utc_now=utc_now)


def test_a_flood_of_denials_is_counted_instead_of_listed(
    reopen: Callable[..., AuditLog], folder: Path
) -> None:
    clock = Clock()
    log = reopen(clock=clock, denials_burst=10, denials_per_s=1)
    for _ in range(1000):
        log.record(make_access_event(STRANGER, Action.DETECT))
    detect(log)
    clock.now_s = 5.0
    detect(log)
    for _ in range(10):
        log.record(make_access_event(STRANGER, Action.DETECT))
    assert log.close() == 0
    listed = [(e["action"], e["outcome"], e["count"]) for e in read_entries(folder)]
    denied = ("detect", "unknown_credential", 1)
    assert listed == [
        ("log_opened", "ok", 1),
        *[denied] * 10,
        ("detect", "ok", 1),
        ("log_denials_unlisted", "ok", 990),
        ("detect", "ok", 1),
        *[denied] * 4,
        ("log_denials_unlisted", "ok", 6),
        ("log_closed", "ok", 1),
    ]


def test_request_ids_are_digested_with_the_folders_own_key(
    reopen: Callable[..., AuditLog], folder: Path, tmp_path: Path
) -> None:
    log = reopen()
    digest = log.request_digest("ACC-2026-0001")
    assert re.fullmatch(r"[0-9a-f]{32}", digest)
    assert log.request_digest("ACC-2026-0001") == digest
    assert log.request_digest("ACC-2026-0002") != digest
    assert log.request_digest("") != log.request_digest("")
    assert reopen().request_digest("ACC-2026-0001") == digest  # after a restart too
    other = AuditLog(tmp_path / "other", utc_now=utc_now)
    assert other.request_digest("ACC-2026-0001") != digest
    other.close()
    log.request_digest("\ud800")  # any text that a caller can send


def test_a_request_key_that_others_can_read_is_refused(
    reopen: Callable[..., AuditLog], folder: Path
) -> None:
    reopen().close()
    (folder / "request-id.key").chmod(0o644)
    with pytest.raises(ConfigInvalid, match="read or changed by others"):
        AuditLog(folder, utc_now=utc_now)
