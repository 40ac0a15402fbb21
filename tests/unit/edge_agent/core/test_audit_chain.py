import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from edge_agent.core.audit_chain import (
    GENESIS,
    AuditEvent,
    ChainHead,
    DenialTokenBucket,
    Marker,
    append_entry,
    make_access_event,
    parse_entry,
    verify_entry,
)
from edge_agent.core.authorization import Action, DenialReason, Denied, Principal, Role
from hilum.codes import ErrorCode

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
CLINIC = Principal("key:0123456789", Role.CLINIC)


def test_a_line_contains_the_events_fields_and_nothing_else() -> None:
    event = make_access_event(
        CLINIC, Action.DETECT, ErrorCode.OVERLOADED, request="ab12", bundle="c0ffee" * 10
    )
    line, link = append_entry(ChainHead(7, "f" * 64), NOON, event)
    assert json.loads(line) == {
        "seq": 7,
        "utc": "2026-05-04T12:00:00.000000+00:00",
        "actor": "key:0123456789",
        "role": "clinic",
        "action": "detect",
        "outcome": "overloaded",
        "request": "ab12",
        "bundle": "c0ffeec0ffee",
        "count": 1,
        "prev": "f" * 64,
        "hash": link.hash,
    }
    assert line.endswith(b"\n")
    assert link.count == 8


def test_times_are_written_in_utc() -> None:
    here = NOON.astimezone(timezone(timedelta(hours=9)))
    assert append_entry(GENESIS, here, AuditEvent(Marker.OPENED)) == append_entry(
        GENESIS, NOON, AuditEvent(Marker.OPENED)
    )


def test_a_denial_brings_its_own_outcome_and_no_role() -> None:
    event = make_access_event(
        Denied(DenialReason.EXPIRED_CREDENTIAL, "key:0123456789"), Action.DETECT
    )
    assert (event.outcome, event.actor, event.role) == (
        DenialReason.EXPIRED_CREDENTIAL,
        "key:0123456789",
        None,
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("actor", "Doe^Jane"),
        ("actor", "key:Doe^Jane12"),
        ("actor", "key:0123456789\n"),
        ("actor", "cert:Müller"),
        ("actor", "cert:" + "x" * 129),
        ("actor", "cert:a\nb"),
        ("actor", "loopback Jane"),
        ("actor", ""),
        ("role", "clinic"),
        ("action", "Jane Doe"),
        ("action", "detect"),
        ("outcome", "Jane Doe"),
        ("request", "1.2.840.113619.2"),
        ("request", "0" * 65),
        ("bundle", "Jane"),
        ("bundle", "0" * 17),
        ("count", -1),
        ("count", 1.5),
        ("count", True),
        ("count", "1"),
    ],
)
def test_free_text_is_rejected(field: str, value: object) -> None:
    fields: dict[str, object] = {"action": Action.DETECT, field: value}
    with pytest.raises(ValueError, match=field) as caught:
        AuditEvent(**fields)  # type: ignore[arg-type]  # Wrong on purpose.
    assert str(value) not in str(caught.value) or value in ("", True)


@pytest.mark.parametrize(
    "actor", ["agent", "unknown", "loopback", "key:0123456789", "cert:CN=pacs-1,O=St Example"]
)
def test_actors_that_can_be_logged(actor: str) -> None:
    event = AuditEvent(Action.DETECT, actor=actor)
    assert json.loads(append_entry(GENESIS, NOON, event)[0])["actor"] == actor


def chain(count: int) -> list[bytes]:
    lines, link = [], GENESIS
    for number in range(count):
        line, link = append_entry(link, NOON, AuditEvent(Action.DETECT, request=f"{number:04x}"))
        lines.append(line)
    return lines


def test_a_chain_is_verified_from_its_start() -> None:
    link: ChainHead | str = GENESIS
    for line in chain(3):
        assert isinstance(link, ChainHead)
        link = verify_entry(link, line)
    assert isinstance(link, ChainHead)
    assert link.count == 3


def test_each_kind_of_damage_has_its_own_message() -> None:
    first, second, third = chain(3)
    after_first = verify_entry(GENESIS, first)
    assert isinstance(after_first, ChainHead)
    assert verify_entry(after_first, third) == "entries 1 to 1 are missing before it"
    assert verify_entry(after_first, first) == "it is entry 0 where entry 1 belongs"
    assert (
        verify_entry(ChainHead(1, "0" * 64), second) == "it does not continue the entry before it"
    )
    changed = second.replace(b"detect", b"metric")
    assert verify_entry(after_first, changed) == "the line was changed: its hash does not fit it"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"seq":0', b'{"seq":"0","prev":"x"', b'{"seq":true,"prev":""', b"\xff"],
)
def test_a_correct_hash_over_other_text_is_no_entry(body: bytes) -> None:
    line = body + b',"hash":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'
    assert parse_entry(line) is None


def test_denials_are_listed_up_to_a_rate() -> None:
    budget = DenialTokenBucket(burst=3, per_s=1)
    assert [budget.admit(10.0) for _ in range(5)] == [True, True, True, False, False]
    assert budget.take_unlisted(10.0) == 0  # No token for the entry yet.
    assert budget.take_unlisted(11.0) == 2
    assert budget.take_unlisted(11.0) == 0
    assert not budget.admit(11.0)  # The entry took the token.
    assert budget.admit(13.0)


def test_unlisted_denials_are_reported_when_the_log_closes() -> None:
    budget = DenialTokenBucket(burst=1, per_s=0)
    assert [budget.admit(0.0) for _ in range(4)] == [True, False, False, False]
    assert budget.take_unlisted(0.0) == 0
    assert budget.take_unlisted(0.0, closing=True) == 3


def test_a_clock_that_stops_or_steps_back_adds_no_tokens() -> None:
    budget = DenialTokenBucket(burst=1, per_s=10)
    assert budget.admit(100.0)
    assert not budget.admit(50.0)
    assert not budget.admit(50.0)
