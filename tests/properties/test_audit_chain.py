"""Any change to a finished audit log is found, at the first changed line."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.audit.segments import ANCHOR, list_segments
from edge_agent.audit.verify import AuditVerdict, verify
from edge_agent.core.audit_chain import (
    AuditEvent,
    ChainHead,
    Marker,
    append_entry,
    make_access_event,
)
from edge_agent.core.authorization import Action, Principal, Role
from hilum.codes import ErrorCode
from tests.support.agents.audit_logs import write_segments

CALLERS = (Principal("key:0123456789", Role.CLINIC), Principal("cert:pacs", Role.VIEWER))


@pytest.fixture(scope="module")
def complete_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a log of 11 entries in three segments, the form of exports and of older logs."""
    folder = tmp_path_factory.mktemp("audit") / "log"
    accesses = [
        make_access_event(
            CALLERS[number % 2],
            Action.DETECT,
            ErrorCode.TOO_SMALL if number == 4 else "ok",
            request=f"{number:032x}",
            bundle="c0ffee" * 10,
        )
        for number in range(9)
    ]
    events = (AuditEvent(Marker.OPENED), *accesses, AuditEvent(Marker.CLOSED))
    write_segments(folder, events, per_file=4)
    assert len(list_segments(folder)) == 3
    verdict = verify(folder)
    assert verdict.is_intact
    assert verdict.head.count == 11
    return folder


@pytest.fixture
def copy(complete_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    return lambda: shutil.copytree(complete_log, tmp_path_factory.mktemp("copy") / "log")


Place = tuple[Path, int]


def lines_in(folder: Path) -> list[tuple[Path, int, bytes]]:
    """Return every line with its file and number from 1."""
    return [
        (file, number, line)
        for file in list_segments(folder)
        for number, line in enumerate(file.read_bytes().splitlines(keepends=True), 1)
    ]


def rewrite(folder: Path, lines: list[tuple[Path, bytes]]) -> None:
    for file in list_segments(folder):
        file.write_bytes(b"".join(line for owner, line in lines if owner == file))


def broken_at(verdict: AuditVerdict) -> tuple[str, int]:
    assert verdict.broken is not None, verdict.describe()
    assert "BROKEN" in verdict.describe()
    return verdict.broken.file, verdict.broken.line


def test_any_single_byte_that_is_changed_is_found_at_its_line(
    complete_log: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(complete_log, tmp_path / "log")
    lines = lines_in(folder)
    for file, number, line in (lines[0], lines[5], lines[-1]):
        data = file.read_bytes()
        start = data.index(line)
        for position in range(start, start + len(line)):
            damaged = bytearray(data)
            damaged[position] ^= 0x20 if position % 2 else 0x01  # the other case; the next digit
            file.write_bytes(damaged)
            assert broken_at(verify(folder)) == (file.name, number), position
        file.write_bytes(data)
    assert verify(folder).is_intact


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_other_value_of_any_byte_is_found(complete_log: Path, data: st.DataObject) -> None:
    file, number, line = data.draw(st.sampled_from(lines_in(complete_log)))
    offset = data.draw(st.integers(0, len(line) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda it: it != line[offset]))
    original = file.read_bytes()
    damaged = bytearray(original)
    damaged[original.index(line) + offset] = value
    try:
        file.write_bytes(damaged)
        assert broken_at(verify(complete_log)) == (file.name, number)
    finally:
        file.write_bytes(original)


@pytest.mark.parametrize("index", range(11))
def test_a_removed_line_is_found(copy: Callable[[], Path], index: int) -> None:
    folder = copy()
    lines = lines_in(folder)
    file, number, _ = lines[index]
    rewrite(folder, [(owner, line) for owner, _, line in lines[:index] + lines[index + 1 :]])
    at = broken_at(verify(folder))
    follows_in_file = index + 1 < len(lines) and lines[index + 1][0] == file
    if follows_in_file or index == len(lines) - 1:
        assert at == (file.name, number)
    else:  # the last of its segment: the next segment's first line does not fit
        assert at == (lines[index + 1][0].name, 1)


@pytest.mark.parametrize("index", range(11))
def test_a_repeated_line_is_found(copy: Callable[[], Path], index: int) -> None:
    folder = copy()
    lines = [(owner, line) for owner, _, line in lines_in(folder)]
    lines.insert(index, lines[index])
    file, number, _ = lines_in(folder)[index]
    rewrite(folder, lines)
    assert broken_at(verify(folder)) == (file.name, number + 1)


@settings(max_examples=60, deadline=None)
@given(order=st.permutations(range(11)))
def test_any_other_order_is_found(complete_log: Path, order: list[int]) -> None:
    before = {file: file.read_bytes() for file in list_segments(complete_log)}
    lines = lines_in(complete_log)
    moved = [(place[0], lines[index][2]) for place, index in zip(lines, order, strict=True)]
    first = next((n for n, index in enumerate(order) if n != index), None)
    try:
        rewrite(complete_log, moved)
        if first is None:
            assert verify(complete_log).is_intact
        else:
            assert broken_at(verify(complete_log)) == (lines[first][0].name, lines[first][1])
    finally:
        for file, data in before.items():
            file.write_bytes(data)


def test_a_tail_cut_off_at_any_byte_is_found(copy: Callable[[], Path]) -> None:
    folder = copy()
    last = list_segments(folder)[-1]
    data = last.read_bytes()
    for end in range(len(data)):
        last.write_bytes(data[:end])
        assert broken_at(verify(folder)) == (last.name, data[:end].count(b"\n") + 1), end


def test_without_its_anchor_a_log_is_not_proven(
    copy: Callable[[], Path],
) -> None:
    folder = copy()
    (folder / ANCHOR).unlink()
    last = list_segments(folder)[-1]
    whole_lines = last.read_bytes().splitlines(keepends=True)
    last.write_bytes(b"".join(whole_lines[:-1]))
    verdict = verify(folder)
    assert verdict.broken is None
    assert not verdict.is_intact
    assert not verdict.has_anchor
    assert "NOT PROVEN" in verdict.describe()
    assert "would not show" in verdict.describe()
    last.write_bytes(b"".join(whole_lines)[:-1])
    assert broken_at(verify(folder)) == (last.name, len(whole_lines))


@pytest.mark.parametrize("index", range(3))
def test_a_missing_segment_is_found(copy: Callable[[], Path], index: int) -> None:
    folder = copy()
    list_segments(folder)[index].unlink()
    assert not verify(folder).is_intact


def test_segments_that_were_moved_away_on_purpose_can_be_left_out(copy: Callable[[], Path]) -> None:
    folder = copy()
    list_segments(folder)[0].unlink()
    verdict = verify(folder, archived=True)
    assert verdict.is_intact
    assert verdict.first > 0
    assert f"entries {verdict.first} to 10" in verdict.describe()


def test_one_segment_can_be_checked_alone(copy: Callable[[], Path]) -> None:
    middle = list_segments(copy())[1]
    assert verify(middle).is_intact
    data = middle.read_bytes()
    middle.write_bytes(data.replace(b'"outcome":"ok"', b'"outcome":"OK"', 1))
    assert not verify(middle).is_intact


def test_a_segment_under_another_name_is_found(copy: Callable[[], Path]) -> None:
    folder = copy()
    middle = list_segments(folder)[1]
    middle.rename(middle.with_name("audit-000000000001.jsonl"))
    assert not verify(folder).is_intact


def test_a_rewritten_last_line_does_not_fit_the_anchor(copy: Callable[[], Path]) -> None:
    folder = copy()
    last = list_segments(folder)[-1]
    *kept, line = last.read_bytes().splitlines(keepends=True)
    previous = line.split(b'"prev":"')[1][:64].decode()
    forged, _ = append_entry(ChainHead(10, previous), datetime.now(UTC), AuditEvent(Action.HEALTH))
    last.write_bytes(b"".join((*kept, forged)))
    verdict = verify(folder)
    assert broken_at(verdict) == (last.name, len(kept) + 1)
    assert "anchor" in verdict.describe()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"entries":"1"}', "not json"])
def test_a_damaged_anchor_is_found(copy: Callable[[], Path], text: str) -> None:
    folder = copy()
    (folder / ANCHOR).write_text(text)
    assert broken_at(verify(folder)) == (ANCHOR, 1)


def test_a_folder_without_a_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        verify(tmp_path)


@settings(max_examples=300, deadline=None)
@given(actor=st.text(), request=st.text(), bundle=st.text(), outcome=st.text(), role=st.text())
def test_no_text_reaches_an_entry(
    actor: str, request: str, bundle: str, outcome: str, role: str
) -> None:
    for fields in (
        {"actor": f"key:{actor}"},
        {"actor": f"cert:{actor}"},
        {"request": request},
        {"bundle": bundle},
        {"outcome": outcome},
        {"role": role},
    ):
        try:
            event = AuditEvent(Action.DETECT, **fields)  # type: ignore[arg-type]
        except ValueError:
            continue
        line, _ = append_entry(ChainHead(0, "0" * 64), datetime.now(UTC), event)
        assert line.isascii()
        assert line.count(b"\n") == 1
        assert "^" not in line.decode()  # DICOM joins the parts of a patient's name with it.
