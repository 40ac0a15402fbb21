"""Audit messages of IHE ATNA: an entry of the log as the XML of DICOM PS3.15 A.5.

The schema is that of PS3.15 A.5.1.1. Events and their codes are those of A.5.3 and of the DICOM
controlled terminology (PS3.16 annex D). What the standard has no code for is named in the scheme
`99HILUM` (PS3.3 section 8.2: schemes of one's own begin with 99).

The log holds nothing about patients, so the messages do not either: `DICOM Instances Accessed` has
no study and no patient (A.5.3.6 has both). The request's digest is there instead; the log's own
key leads from a request's id to it (docs/decisions/0092-atna-messages.md).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree as ET

from edge_agent.core.audit_chain import Marker
from edge_agent.core.authorization import Action, DenialReason

OWN_SCHEME: Final = "99HILUM"


@dataclass(frozen=True, slots=True)
class Source:
    """The source of messages: the box's identity or name, and the site's name, if any."""

    box: str
    site: str = ""


@dataclass(frozen=True, slots=True)
class _Code:
    code: str
    meaning: str
    scheme: str = "DCM"

    def add(self, parent: ET.Element, tag: str) -> None:
        attributes = {
            "csd-code": self.code,
            "codeSystemName": self.scheme,
            "originalText": self.meaning,
        }
        ET.SubElement(parent, tag, attributes)


_APPLICATION_ACTIVITY: Final = _Code("110100", "Application Activity")
_AUDIT_LOG_USED: Final = _Code("110101", "Audit Log Used")
_INSTANCES_ACCESSED: Final = _Code("110103", "DICOM Instances Accessed")
_SECURITY_ALERT: Final = _Code("110113", "Security Alert")
_USER_AUTHENTICATION: Final = _Code("110114", "User Authentication")
_START: Final = _Code("110120", "Application Start")
_STOP: Final = _Code("110121", "Application Stop")
_LOGIN: Final = _Code("110122", "Login")
_NODE_AUTHENTICATION: Final = _Code("110126", "Node Authentication")
_RESTRICTED_FUNCTION: Final = _Code("110132", "Use of Restricted Function")
_APPLICATION: Final = _Code("110150", "Application")
_URI: Final = _Code("12", "URI", "RFC-3881")

_DENIALS: Final[Mapping[str, tuple[_Code, _Code]]] = {
    DenialReason.NO_CREDENTIAL: (_USER_AUTHENTICATION, _LOGIN),
    DenialReason.UNKNOWN_CREDENTIAL: (_USER_AUTHENTICATION, _LOGIN),
    DenialReason.EXPIRED_CREDENTIAL: (_USER_AUTHENTICATION, _LOGIN),
    DenialReason.FORWARDED: (_USER_AUTHENTICATION, _LOGIN),
    DenialReason.ROLE_TOO_LOW: (_SECURITY_ALERT, _RESTRICTED_FUNCTION),
    DenialReason.WRONG_HOST: (_SECURITY_ALERT, _NODE_AUTHENTICATION),
    DenialReason.WRONG_ORIGIN: (_SECURITY_ALERT, _NODE_AUTHENTICATION),
}
_MARKERS: Final[Mapping[str, tuple[_Code, _Code | None, str]]] = {
    Marker.OPENED: (_APPLICATION_ACTIVITY, _START, "E"),
    Marker.CLOSED: (_APPLICATION_ACTIVITY, _STOP, "E"),
    Marker.EXPORTED: (_AUDIT_LOG_USED, None, "R"),
    Marker.REMOVED: (_AUDIT_LOG_USED, None, "D"),
    Marker.REMOVED_UNEXPORTED: (_AUDIT_LOG_USED, None, "D"),
}
_SUCCESS, _MINOR, _SERIOUS = "0", "4", "8"
_AGENT: Final = "agent"


def build_message(fields: Mapping[str, object], source: Source) -> bytes:
    """Return an entry of the log as an audit message.

    Args:
        fields: the entry's fields.
        source: the box that reports it.

    Returns:
        An XML document in UTF-8.
    """
    action, outcome = str(fields["action"]), str(fields["outcome"])
    actor = str(fields["actor"])
    message = ET.Element("AuditMessage")
    _add_event(message, fields, action, outcome)
    if actor != _AGENT:
        _add_caller(message, actor, str(fields["role"]))
    application = ET.SubElement(
        message,
        "ActiveParticipant",
        {
            "UserID": source.box,
            "AlternativeUserID": "hilum-edge",
            "UserIsRequestor": "true" if actor == _AGENT else "false",
        },
    )
    _APPLICATION.add(application, "RoleIDCode")
    site = {"AuditEnterpriseSiteID": source.site} if source.site else {}
    identification = ET.SubElement(
        message, "AuditSourceIdentification", {**site, "AuditSourceID": source.box}
    )
    # 4: application server process (A.5.1.2.1).
    ET.SubElement(identification, "AuditSourceTypeCode", {"csd-code": "4"})
    _add_objects(message, fields, action)
    return bytes(ET.tostring(message, encoding="UTF-8", xml_declaration=True))


def _add_event(
    message: ET.Element, fields: Mapping[str, object], action: str, outcome: str
) -> None:
    event_id, kind, action_code = _find_event(action, outcome)
    event = ET.SubElement(
        message,
        "EventIdentification",
        {
            "EventActionCode": action_code,
            "EventDateTime": str(fields["utc"]),
            "EventOutcomeIndicator": _find_indicator(action, outcome),
        },
    )
    event_id.add(event, "EventID")
    if kind is not None:
        kind.add(event, "EventTypeCode")
    _Code(action, action.replace("_", " "), OWN_SCHEME).add(event, "EventTypeCode")
    if outcome != "ok":
        ET.SubElement(event, "EventOutcomeDescription").text = outcome


def _find_event(action: str, outcome: str) -> tuple[_Code, _Code | None, str]:
    """Return the event's id, its type and the code of its action (A.5.1: execute, read, ...)."""
    if outcome in _DENIALS:
        return (*_DENIALS[outcome], "E")
    if action in _MARKERS:
        return _MARKERS[action]
    if action == Action.DETECT:
        return _INSTANCES_ACCESSED, None, "R"
    is_marker = action in tuple(Marker)
    return _SECURITY_ALERT if is_marker else _APPLICATION_ACTIVITY, None, "E"


def _find_indicator(action: str, outcome: str) -> str:
    if action in tuple(Marker) and action not in _MARKERS:
        return _MINOR if action == Marker.DENIALS_UNLISTED else _SERIOUS
    return _SUCCESS if outcome == "ok" else _MINOR


def _add_caller(message: ET.Element, actor: str, role: str) -> None:
    attributes = {"UserID": actor, "UserIsRequestor": "true"}
    caller = ET.SubElement(message, "ActiveParticipant", attributes)
    if role:
        _Code(role, role, OWN_SCHEME).add(caller, "RoleIDCode")


def _add_objects(message: ET.Element, fields: Mapping[str, object], action: str) -> None:
    # Roles: 20 job, 26 processing element, 13 security resource (A.5.1.2.2).
    if request := str(fields["request"]):
        _add_object(message, request, _Code("request", "request", OWN_SCHEME), "20", "request")
    if bundle := str(fields["bundle"]):
        _add_object(message, bundle, _Code("bundle", "bundle", OWN_SCHEME), "26", "model bundle")
    if action in tuple(Marker):
        # A.5.3.2: the log itself, by a URI.
        log = _add_object(message, "urn:hilum:audit-log", _URI, "13", "Security Audit Log")
        for name in ("count", "digest"):
            if name in fields:
                value = base64.b64encode(str(fields[name]).encode()).decode()
                ET.SubElement(log, "ParticipantObjectDetail", {"type": name, "value": value})
    entry = _Code("audit-entry", "audit entry", OWN_SCHEME)
    _add_object(message, str(fields["hash"]), entry, "13", f"entry {fields['seq']}")


def _add_object(
    message: ET.Element, identifier: str, id_type: _Code, role: str, name: str
) -> ET.Element:
    attributes = {
        "ParticipantObjectID": identifier,
        "ParticipantObjectTypeCode": "2",  # System object
        "ParticipantObjectTypeCodeRole": role,
    }
    found = ET.SubElement(message, "ParticipantObjectIdentification", attributes)
    id_type.add(found, "ParticipantObjectIDTypeCode")
    ET.SubElement(found, "ParticipantObjectName").text = name
    return found
