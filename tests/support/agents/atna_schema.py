"""A validator for audit messages: the schema of DICOM PS3.15 A.5.1.1, as far as it has no text.

Each element has its attributes, required or not, with the values that they may have, and its
children in their order, each with the number of times that it may occur.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from xml.etree import ElementTree as ET

_MANY: Final = 10**9


@dataclass(frozen=True)
class _Element:
    required: dict[str, str] = field(default_factory=dict)
    optional: dict[str, str] = field(default_factory=dict)
    children: tuple[tuple[str, int, int], ...] = ()
    has_text: bool = False


_TOKEN = r"\S(.*\S)?"  # noqa: S105  # XML Schema's type
_CODED = _Element(
    required={"csd-code": _TOKEN, "codeSystemName": _TOKEN, "originalText": _TOKEN},
    optional={"displayName": _TOKEN},
)
_SCHEMA: Final = {
    "AuditMessage": _Element(
        children=(
            ("EventIdentification", 1, 1),
            ("ActiveParticipant", 1, _MANY),
            ("AuditSourceIdentification", 1, 1),
            ("ParticipantObjectIdentification", 0, _MANY),
        )
    ),
    "EventIdentification": _Element(
        required={"EventDateTime": "dateTime", "EventOutcomeIndicator": "0|4|8|12"},
        optional={"EventActionCode": "[CRUDE]"},
        children=(
            ("EventID", 1, 1),
            ("EventTypeCode", 0, _MANY),
            ("EventOutcomeDescription", 0, 1),
        ),
    ),
    "ActiveParticipant": _Element(
        required={"UserID": ".*", "UserIsRequestor": "true|false"},
        optional={
            "AlternativeUserID": ".*",
            "UserName": ".*",
            "NetworkAccessPointID": _TOKEN,
            "NetworkAccessPointTypeCode": "[1-5]",
        },
        children=(("RoleIDCode", 0, _MANY), ("MediaIdentifier", 0, 1)),
    ),
    "AuditSourceIdentification": _Element(
        required={"AuditSourceID": _TOKEN},
        optional={"AuditEnterpriseSiteID": _TOKEN},
        children=(("AuditSourceTypeCode", 0, _MANY),),
    ),
    "AuditSourceTypeCode": _Element(required={"csd-code": "[1-9]"}),
    "ParticipantObjectIdentification": _Element(
        required={"ParticipantObjectID": _TOKEN},
        optional={
            "ParticipantObjectTypeCode": "[1-4]",
            "ParticipantObjectTypeCodeRole": "[1-9]|1[0-9]|2[0-6]",
            "ParticipantObjectDataLifeCycle": "[1-9]|1[0-5]",
            "ParticipantObjectSensitivity": _TOKEN,
        },
        children=(
            ("ParticipantObjectIDTypeCode", 1, 1),
            ("ParticipantObjectName", 1, 1),
            ("ParticipantObjectDetail", 0, _MANY),
            ("ParticipantObjectDescription", 0, _MANY),
        ),
    ),
    "ParticipantObjectDetail": _Element(required={"type": _TOKEN, "value": "base64"}),
    "ParticipantObjectName": _Element(has_text=True),
    "EventOutcomeDescription": _Element(has_text=True),
    "EventID": _CODED,
    "EventTypeCode": _CODED,
    "RoleIDCode": _CODED,
    "ParticipantObjectIDTypeCode": _CODED,
}


def find_schema_problems(message: bytes) -> list[str]:
    """Return what in a message the schema does not allow."""
    root = ET.fromstring(message)  # noqa: S314  # our own message
    problems = [] if root.tag == "AuditMessage" else [f"the root is {root.tag}"]
    for element in root.iter():
        problems += [f"{element.tag}: {problem}" for problem in _check(element)]
    return problems


def _check(element: ET.Element) -> list[str]:
    rule = _SCHEMA.get(element.tag)
    if rule is None:
        return ["is not in the schema"]
    known = rule.required | rule.optional
    problems = [f"lacks {name}" for name in rule.required if name not in element.attrib]
    problems += [f"has {name}" for name in element.attrib if name not in known]
    problems += [
        f"{name} is {value!r}"
        for name, value in element.attrib.items()
        if name in known and not _is_valid(value, known[name])
    ]
    if not rule.has_text and (element.text or "").strip():
        problems.append("has text")
    tags = [child.tag for child in element]
    order = [name for name, _, _ in rule.children]
    problems += [f"has {tag}" for tag in tags if tag not in order]
    places = [order.index(tag) for tag in tags if tag in order]
    if places != sorted(places):
        problems.append(f"has its children in the order {tags}")
    problems += [
        f"has {tags.count(name)} times {name}"
        for name, least, most in rule.children
        if not least <= tags.count(name) <= most
    ]
    return problems


def _is_valid(value: str, form: str) -> bool:
    try:
        if form == "dateTime":
            return datetime.fromisoformat(value).tzinfo is not None
        if form == "base64":
            return base64.b64encode(base64.b64decode(value, validate=True)).decode() == value
    except ValueError:
        return False
    return re.fullmatch(form, value) is not None
