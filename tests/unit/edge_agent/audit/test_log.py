import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent.audit.log import AuditLimits, AuditLog
from edge_agent.audit.segments import ANCHOR, list_segments, recover, split_lines
from edge_agent.audit.verify import verify
from edge_agent.core.audit_chain import Marker, make_access_event
from edge_agent.core.authorization import LOOPBACK, Action, DenialReason, Denied, Principal, Role
from edge_agent.errors import AuditUnavailable, ConfigInvalid
from hilum.codes import ErrorCode

CLINIC = Principal("key:0123456789", Role.CLINIC)
STRANGER = Denied(DenialReason.UNKNOWN_CREDENTIAL)


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
        limits = AuditLimits(**{"gather_s": 0.0, "retry_s": 0.01, **changes})  # type: ignore[arg-type]
        log = AuditLog(folder, utc_now=utc_now, monotonic_s=clock, limits=limits)  # type: ignore[arg-type]
        logs.append(log)
        return log

    yield open_it
    for log in logs:
        log.close()


def entries(folder: Path) -> list[dict[str, object]]:
    return [
        json.loads(line)
        for file in list_segments(folder)
        for line in split_lines(file.read_bytes())
    ]


def actions(folder: Path) -> list[object]:
    return [entry["action"] for entry in entries(folder)]


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
    assert [(e["action"], e["actor"], e["role"], e["outcome"]) for e in entries(folder)] == [
        ("log_opened", "agent", "", "ok"),
        ("detect", "key:0123456789", "clinic", "ok"),
        ("page", "unknown", "", "unknown_credential"),
        ("detect", "loopback", "clinic", "too_small"),
        ("log_closed", "agent", "", "ok"),
    ]
    assert verify(folder).is_intact


def test_all_files_are_private_to_the_agent(reopen: Callable[..., AuditLog], folder: Path) -> None:
    log = reopen(segment_bytes=400)
    for number in range(3):
        detect(log, number)
        assert log.flush(30)
    assert len(list_segments(folder)) > 1
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
    assert json.loads((folder / ANCHOR).read_bytes())["entries"] == 2
    assert log.flush(0)


def test_entries_of_many_threads_are_all_kept_in_order(
    reopen: Callable[..., AuditLog], folder: Path
) -> None:
    log = reopen(segment_bytes=20_000)

    def work(worker: int) -> None:
        for number in range(100):
            detect(log, worker << 16 | number)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.close() == 0
    requests = [int(str(e["request"]), 16) for e in entries(folder) if e["action"] == "detect"]
    for worker in range(8):
        assert [it & 0xFFFF for it in requests if it >> 16 == worker] == list(range(100))
    assert verify(folder).is_intact


def test_the_chain_goes_on_over_restarts_and_segments(
    reopen: Callable[..., AuditLog], folder: Path
) -> None:
    for run in range(3):
        log = reopen(segment_bytes=1000)
        for number in range(4):
            detect(log, run * 10 + number)
            assert log.flush(30)
    assert log.close() == 0
    assert actions(folder) == (["log_opened", *["detect"] * 4, "log_closed"]) * 3
    assert len(list_segments(folder)) > 3
    assert verify(folder).head.count == 18


def test_a_removed_open_segment_is_replaced_and_reported_missing(
    reopen: Callable[..., AuditLog], folder: Path
) -> None:
    log = reopen()
    detect(log)
    assert log.flush(30)
    list_segments(folder)[0].unlink()
    detect(log)
    assert log.close() == 0
    assert actions(folder) == ["detect", "log_closed"]
    assert not verify(folder).is_intact


# What a power cut leaves behind


@pytest.fixture
def next_line(reopen: Callable[..., AuditLog], folder: Path) -> bytes:
    """A log with two durable entries after its start, and the line that was being written."""
    log = reopen()
    detect(log, 1)
    detect(log, 2)
    assert log.flush(30)
    before = {
        name: (folder / name).read_bytes() for name in (ANCHOR, list_segments(folder)[0].name)
    }
    detect(log, 3)
    log.close()
    lines = list(split_lines(list_segments(folder)[0].read_bytes()))
    for name, data in before.items():
        (folder / name).write_bytes(data)
    return lines[3]


def test_a_truncated_line_is_moved_aside_and_the_chain_goes_on(
    reopen: Callable[..., AuditLog], folder: Path, next_line: bytes
) -> None:
    segment = list_segments(folder)[0]
    durable, anchor = segment.read_bytes(), (folder / ANCHOR).read_bytes()
    for cut in range(1, len(next_line), 5):
        segment.write_bytes(durable + next_line[:cut])
        (folder / ANCHOR).write_bytes(anchor)
        verdict = verify(folder)
        assert verdict.is_intact
        assert verdict.torn_bytes == cut
        recovered = recover(folder)
        assert [(it.action, it.count) for it in recovered.markers] == [(Marker.TORN_TAIL, cut)]
        assert recovered.head == verdict.head
        assert segment.read_bytes() == durable
        assert next(folder.glob("torn-*.bin")).read_bytes() == next_line[:cut]
    detect(reopen(), 4)
    reopen()
    assert actions(folder)[3:6] == ["log_opened", "detect", "log_closed"]
    assert verify(folder).is_intact


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"\0\n\0\n", b"\n", b'{"seq":3}\n', b"\xff\xfe\n{"])
def test_garbage_at_the_end_is_moved_aside(
    reopen: Callable[..., AuditLog], folder: Path, next_line: bytes, tail: bytes
) -> None:
    with list_segments(folder)[0].open("ab") as file:
        file.write(tail)
    reopen().close()
    assert entries(folder)[3]["action"] == "log_torn_tail"
    assert entries(folder)[3]["count"] == len(tail)
    assert next(folder.glob("torn-*.bin")).read_bytes() == tail
    assert verify(folder).is_intact


def test_a_line_written_before_its_anchor_is_kept(
    reopen: Callable[..., AuditLog], folder: Path, next_line: bytes
) -> None:
    with list_segments(folder)[0].open("ab") as file:
        file.write(next_line)
    reopen().close()
    assert [e["request"] for e in entries(folder)][1:4] == ["00000001", "00000002", "00000003"]
    assert verify(folder).is_intact


def test_a_segment_created_just_before_a_power_cut_is_created_again(
    reopen: Callable[..., AuditLog], folder: Path, next_line: bytes
) -> None:
    (folder / "audit-000000000003.jsonl").write_bytes(next_line[:40])
    reopen().close()
    assert actions(folder)[3:5] == ["log_torn_tail", "log_opened"]
    assert verify(folder).is_intact


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_missing_durable_entries_leave_a_permanent_gap(
    reopen: Callable[..., AuditLog], folder: Path, next_line: bytes, keep: int
) -> None:
    segment = list_segments(folder)[0]
    segment.write_bytes(b"".join(list(split_lines(segment.read_bytes()))[:keep]))
    before = verify(folder)
    assert before.broken is not None
    for _ in range(2):
        detect(reopen())
    reopen().close()
    gap = next(e for e in entries(folder) if e["action"] == "log_entries_missing")
    assert (gap["seq"], gap["count"]) == (3, 3 - keep)
    after = verify(folder)
    assert after.broken is not None
    assert re.search(rf"entries {keep} to 2 are missing", after.describe())


def test_a_log_that_was_removed_completely_leaves_a_gap(
    reopen: Callable[..., AuditLog], folder: Path, next_line: bytes
) -> None:
    list_segments(folder)[0].unlink()
    reopen().close()
    assert actions(folder) == ["log_entries_missing", "log_opened", "log_closed"]
    assert "entries 0 to 2 are missing" in verify(folder).describe()


@pytest.mark.parametrize("damage", [None, b"", b"{}", b"\0\0"])
def test_a_missing_anchor_is_recorded(
    reopen: Callable[..., AuditLog], folder: Path, next_line: bytes, damage: bytes | None
) -> None:
    if damage is None:
        (folder / ANCHOR).unlink()
    else:
        (folder / ANCHOR).write_bytes(damage)
    reopen().close()
    assert actions(folder)[3:5] == ["log_anchor_missing", "log_opened"]
    assert verify(folder).is_intact


WRITES_UNTIL_KILLED = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from edge_agent.core.authorization import Action, Principal, Role
from edge_agent.core.audit_chain import make_access_event
from edge_agent.audit.log import AuditLimits, AuditLog
log = AuditLog(
    Path(sys.argv[1]), utc_now=lambda: datetime.now(UTC),
    limits=AuditLimits(segment_bytes=5000, gather_s=0),
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
        kept = [int(str(e["request"]), 16) for e in entries(folder) if e["action"] == "detect"]
        last_run = kept[len(kept) - 1 - kept[::-1].index(0) :]
        assert last_run == list(range(len(last_run)))
        assert len(last_run) > durable


# Disks that are full or failing

FILLS_THE_DISK = """
import json, resource, sys
from datetime import UTC, datetime
from pathlib import Path
from edge_agent.core.authorization import Action, Principal, Role
from edge_agent.core.audit_chain import make_access_event
from edge_agent.errors import AuditUnavailable
from edge_agent.audit.log import AuditLimits, AuditLog

log = AuditLog(
    Path(sys.argv[1]), utc_now=lambda: datetime.now(UTC),
    limits=AuditLimits(queue_size=50, gather_s=0, retry_s=0.01),
)
who = Principal("key:0123456789", Role.CLINIC)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
# No file may grow beyond this; writing then stops in the middle of a line, as on a full disk.
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
granted = 0
try:
    while True:
        log.require()
        granted += 1
        log.record(make_access_event(who, Action.DETECT, request=f"{granted:08x}"))
        log.flush(0.2)
except AuditUnavailable as error:
    refused = [error.code, error.message]
for _ in range(200):  # under way, or denied: still taken, within bounds
    log.record(make_access_event(who, Action.MODEL))
status = log.status
if sys.argv[2] == "recovers":
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert log.flush(30)
    log.require()
left = log.close()
print(json.dumps({
    "granted": granted, "refused": refused, "failure": status.failure,
    "waiting": status.waiting, "lost": status.lost, "left": left,
}))
"""


def fill_the_disk(folder: Path, then: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", FILLS_THE_DISK, folder, then],
        check=True,
        capture_output=True,
        text=True,
    )
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_a_full_disk_refuses_accesses_and_loses_no_granted_one(folder: Path) -> None:
    result = fill_the_disk(folder, "recovers")
    assert result["refused"] == [
        "audit_unavailable",
        "The audit log cannot be written: File too large.",
    ]
    assert result["failure"] == "File too large"
    assert result["waiting"] == 100  # twice the queue, then no more
    assert result["left"] == 0
    granted = result["granted"]
    assert isinstance(granted, int)
    kept = [e["request"] for e in entries(folder) if e["action"] == "detect"]
    assert kept == [f"{number:08x}" for number in range(1, granted + 1)]
    lost = [e["count"] for e in entries(folder) if e["action"] == "log_entries_lost"]
    assert lost == [result["lost"]]
    assert verify(folder).is_intact


def test_a_disk_that_stays_full_leaves_an_intact_log_and_counts_the_rest(
    folder: Path,
) -> None:
    result = fill_the_disk(folder, "stays")
    assert result["left"] == 100
    assert verify(folder).is_intact
    assert folder.joinpath(list_segments(folder)[0]).stat().st_size <= 3000


def test_a_failing_folder_refuses_and_recovers(
    reopen: Callable[..., AuditLog], folder: Path
) -> None:
    log = reopen()
    away = folder.with_name("away")
    folder.rename(away)  # the anchor cannot be written, while the open segment still can
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
    listed = [(e["action"], e["outcome"], e["count"]) for e in entries(folder)]
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
