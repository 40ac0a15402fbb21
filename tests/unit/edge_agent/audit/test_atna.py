"""Audit messages: valid by the standard's schema, with its codes, and without patient data."""

import itertools
import json
import string
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.audit.atna import Source, build_message
from edge_agent.core.audit_chain import (
    AuditEvent,
    ChainHead,
    Marker,
    append_entry,
    make_access_event,
)
from edge_agent.core.authorization import Action, DenialReason, Denied, Principal, Role
from hilum.codes import ErrorCode
from tests.support.agents.atna_schema import find_schema_problems

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
CLINIC = Principal("cert:CN=pacs-1,O=St Example", Role.CLINIC)
SOURCE = Source("0123456789abcdef" * 2, "St Example")


def build(event: AuditEvent, source: Source = SOURCE) -> ET.Element:
    line, _ = append_entry(ChainHead(41, "0" * 64), NOON, event)
    message = build_message(json.loads(line), source)
    assert find_schema_problems(message) == []
    return ET.fromstring(message)  # noqa: S314  # our own message


def describe(message: ET.Element) -> tuple[str | None, ...]:
    """Return the event's codes, its action and its outcome."""
    event = message[0]
    codes = [child.get("csd-code") for child in event if child.tag.endswith(("ID", "TypeCode"))]
    return (*codes, event.get("EventActionCode"), event.get("EventOutcomeIndicator"))


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (AuditEvent(Marker.OPENED), ("110100", "110120", "log_opened", "E", "0")),
        (AuditEvent(Marker.CLOSED), ("110100", "110121", "log_closed", "E", "0")),
        (make_access_event(CLINIC, Action.DETECT), ("110103", "detect", "R", "0")),
        (
            make_access_event(CLINIC, Action.DETECT, ErrorCode.TOO_SMALL),
            ("110103", "detect", "R", "4"),
        ),
        (make_access_event(CLINIC, Action.MODEL), ("110100", "model", "E", "0")),
        (
            make_access_event(Denied(DenialReason.UNKNOWN_CREDENTIAL), Action.DETECT),
            ("110114", "110122", "detect", "E", "4"),
        ),
        (
            make_access_event(Denied(DenialReason.ROLE_TOO_LOW, "key:0123456789"), Action.DETECT),
            ("110113", "110132", "detect", "E", "4"),
        ),
        (
            make_access_event(Denied(DenialReason.WRONG_HOST), Action.PAGE),
            ("110113", "110126", "page", "E", "4"),
        ),
        (
            AuditEvent(Marker.EXPORTED, count=7, digest="a" * 64),
            ("110101", "log_exported", "R", "0"),
        ),
        (
            AuditEvent(Marker.REMOVED, count=7, digest="a" * 64),
            ("110101", "log_removed", "D", "0"),
        ),
        (AuditEvent(Marker.ENTRIES_MISSING, count=7), ("110113", "log_entries_missing", "E", "8")),
        (
            AuditEvent(Marker.DENIALS_UNLISTED, count=7),
            ("110113", "log_denials_unlisted", "E", "4"),
        ),
    ],
)
def test_events_have_the_standards_codes(event: AuditEvent, expected: tuple[str, ...]) -> None:
    assert describe(build(event)) == expected


def test_every_event_of_the_log_makes_a_valid_message() -> None:
    outcomes = ("ok", *ErrorCode)
    for action, outcome in itertools.product(Action, outcomes):
        build(make_access_event(CLINIC, action, outcome, request="ab12", bundle="c0ffee" * 10))
    for action, reason in itertools.product(Action, DenialReason):
        build(make_access_event(Denied(reason), action))
    for marker in Marker:
        build(AuditEvent(marker, count=3, digest="a" * 64, box="b" * 32), Source("ward-3"))


def test_a_message_says_who_asked_where_it_happened_and_for_which_entry() -> None:
    event = make_access_event(CLINIC, Action.DETECT, request="ab12", bundle="c0ffee" * 10)
    message = build(event)
    caller, application = message.findall("ActiveParticipant")
    assert (caller.get("UserID"), caller.get("UserIsRequestor")) == (CLINIC.actor, "true")
    assert caller[0].get("csd-code") == "clinic"
    assert (application.get("UserID"), application.get("UserIsRequestor")) == (SOURCE.box, "false")
    source = message.find("AuditSourceIdentification")
    assert source is not None
    assert source.attrib == {"AuditEnterpriseSiteID": "St Example", "AuditSourceID": SOURCE.box}
    objects = message.findall("ParticipantObjectIdentification")
    line, head = append_entry(ChainHead(41, "0" * 64), NOON, event)
    assert [it.get("ParticipantObjectID") for it in objects] == ["ab12", "c0ffeec0ffee", head.hash]
    assert [it.findtext("ParticipantObjectName") for it in objects][-1] == "entry 41"
    assert message[0].get("EventDateTime") == json.loads(line)["utc"]


def test_the_validator_finds_what_the_schema_does_not_allow() -> None:
    line, _ = append_entry(ChainHead(0, "0" * 64), NOON, AuditEvent(Marker.OPENED))
    message = build_message(json.loads(line), SOURCE)
    for wrong in (
        message.replace(b"EventID ", b"EventId "),
        message.replace(b'EventActionCode="E"', b'EventActionCode="X"'),
        message.replace(b'UserIsRequestor="true"', b""),
        message.replace(b"2026-05-04T12", b"2026-05-04 noon"),
        message.replace(b'csd-code="110100" ', b""),
        message.replace(b"AuditMessage", b"AuditMessages"),
    ):
        assert wrong != message
        assert find_schema_problems(wrong)


@given(
    accession=st.text(string.ascii_letters + string.digits + "^-. ", min_size=4, max_size=30),
    common_name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 ._=,+@:/*-]{0,60}", fullmatch=True),
)
def test_no_patient_data_is_in_a_message(accession: str, common_name: str) -> None:
    """All that a message has comes from the entry, which has no free text (AuditEvent)."""
    caller = Principal(f"cert:{common_name}", Role.CLINIC)
    line, _ = append_entry(
        ChainHead(0, "0" * 64), NOON, make_access_event(caller, Action.DETECT, request="ab12")
    )
    fields = json.loads(line) | {"patient": accession, "accession": accession}
    message = build_message(fields, SOURCE)
    assert message == build_message(json.loads(line), SOURCE)
    root = ET.fromstring(message)  # noqa: S314  # our own message
    objects = root.findall("ParticipantObjectIdentification")
    # Neither a person (type 1) nor a patient (role 1), nor a study's description.
    assert {it.get("ParticipantObjectTypeCode") for it in objects} == {"2"}
    assert "1" not in {it.get("ParticipantObjectTypeCodeRole") for it in objects}
    assert root.find(".//ParticipantObjectDescription") is None
