"""Access control of each address, and the log entries afterwards."""

from __future__ import annotations

import pytest

from edge_agent.core.audit_chain import AuditEvent
from edge_agent.core.authorization import (
    Action,
    AuthResult,
    DenialReason,
    Denied,
    Principal,
    Role,
    authorize,
)
from edge_agent.errors import AuditUnavailable
from edge_agent.security.authentication import ClientCredentials
from edge_agent.serving.http.access import HttpAccessControl
from hilum.codes import ErrorCode
from tests.support.agents.http import caller, file_form, http_app
from tests.support.agents.tagged import DIGEST, tagged_png

ROLES = {"admin": Role.ADMIN, "clinic": Role.CLINIC, "viewer": Role.VIEWER}


class KeysByName:
    """Access control that takes the name of a role as a key."""

    def decide(self, action: Action, caller: ClientCredentials) -> AuthResult:
        role = ROLES.get(caller.key or "")
        if role is None:
            return Denied(
                DenialReason.NO_CREDENTIAL
                if caller.key is None
                else DenialReason.UNKNOWN_CREDENTIAL
            )
        return authorize(action, Principal("key:0123456789", role))


class MemoryAudit:
    """An audit log in memory; `full` makes it refuse."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []
        self.full = False

    def require(self) -> None:
        if self.full:
            raise AuditUnavailable("The disk is full.")

    def record(self, event: AuditEvent) -> None:
        self.events.append(event)

    def request_digest(self, request_id: str) -> str:
        return request_id.encode().hex()[:32]


@pytest.fixture
def audit() -> MemoryAudit:
    return MemoryAudit()


@pytest.mark.parametrize(
    ("key", "path", "status"),
    [
        (None, "/predict", 401),
        ("nobody", "/predict", 401),
        ("viewer", "/predict", 403),
        ("viewer", "/predict/batch", 403),
        ("viewer", "/render", 403),
        ("clinic", "/predict", 200),
        ("admin", "/predict", 200),
        (None, "/model", 401),
        ("viewer", "/model", 200),
        (None, "/metrics", 401),
        ("viewer", "/metrics", 200),
        (None, "/", 200),
        (None, "/docs", 200),
        (None, "/openapi.json", 200),
        (None, "/js/app.js", 200),
        (None, "/healthz", 401),
        ("viewer", "/healthz", 200),
    ],
)
async def test_each_role_may_do_its_actions(
    audit: MemoryAudit, key: str | None, path: str, status: int
) -> None:
    app = http_app(access=HttpAccessControl(KeysByName(), audit))
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with caller(app, **headers) as client:
        if path in {"/predict", "/predict/batch", "/render"}:
            answer = await client.post(path, **file_form(tagged_png(200)))
        else:
            answer = await client.get(path)
    assert answer.status_code == status
    assert ("www-authenticate" in answer.headers) == (status == 401)
    unlogged = {"/", "/docs", "/openapi.json", "/js/app.js"}
    if status == 200:
        unlogged |= {"/healthz", "/metrics"}
    assert len(audit.events) == (path not in unlogged)


async def test_access_is_denied_before_the_body_is_read(audit: MemoryAudit) -> None:
    app = http_app(access=HttpAccessControl(KeysByName(), audit))
    async with caller(app) as client:
        answer = await client.post("/predict", content=b"not even a form")
    assert answer.status_code == 401


async def test_an_unauthorized_caller_gets_no_details_of_wrong_options_and_is_logged(
    audit: MemoryAudit,
) -> None:
    app = http_app(access=HttpAccessControl(KeysByName(), audit))
    async with caller(app) as client:
        stranger = await client.post("/predict?nonsense=1", **file_form(tagged_png(200)))
        known = await client.post(
            "/predict/batch?nonsense=1",
            **file_form(tagged_png(200), "files"),
            headers={"Authorization": "Bearer clinic"},
        )
    assert (stranger.status_code, known.status_code) == (401, 422)
    assert "nonsense" in known.json()["error"]["message"]
    assert [it.outcome for it in audit.events] == [
        DenialReason.NO_CREDENTIAL,
        ErrorCode.INVALID_REQUEST,
    ]


async def test_an_access_is_logged_with_its_outcome(audit: MemoryAudit) -> None:
    app = http_app(access=HttpAccessControl(KeysByName(), audit))
    async with caller(app, Authorization="Bearer clinic") as client:
        await client.post("/predict", **file_form(tagged_png(200)), data={"request_id": "mine"})
        await client.post("/predict", **file_form(b"no image"))
        await client.get("/healthz")
        await client.get("/metrics")
        await client.get("/model", headers={"Authorization": "Bearer nobody"})
        await client.get("/model", headers={"Host": "evil.example"})
    answered, refused, unknown, rebound = audit.events
    assert (answered.action, answered.outcome) == (Action.DETECT, "ok")
    assert (answered.actor, answered.role) == ("key:0123456789", Role.CLINIC)
    assert (answered.request, answered.bundle) == (b"mine".hex(), DIGEST[:12])
    assert (refused.action, refused.outcome) == (Action.DETECT, ErrorCode.NOT_AN_IMAGE)
    assert (unknown.action, unknown.outcome) == (Action.MODEL, DenialReason.UNKNOWN_CREDENTIAL)
    assert rebound.outcome == DenialReason.WRONG_HOST


async def test_every_request_is_counted_with_its_outcome(audit: MemoryAudit) -> None:
    counted: list[tuple[Action, ErrorCode | DenialReason | None]] = []
    access = HttpAccessControl(KeysByName(), audit, lambda *what: counted.append(what))
    async with caller(http_app(access=access), Authorization="Bearer clinic") as client:
        await client.post("/predict", **file_form(tagged_png(200)))
        await client.post("/predict", **file_form(b"no image"))
        await client.get("/healthz")
        await client.get("/healthz", headers={"Authorization": "Bearer nobody"})
        await client.get("/model", headers={"Origin": "https://evil.example"})
    assert counted == [
        (Action.DETECT, None),
        (Action.DETECT, ErrorCode.NOT_AN_IMAGE),
        (Action.HEALTH, None),
        (Action.HEALTH, DenialReason.UNKNOWN_CREDENTIAL),
        (Action.PAGE, DenialReason.WRONG_ORIGIN),
    ]


async def test_an_access_that_cannot_be_logged_is_refused(audit: MemoryAudit) -> None:
    audit.full = True
    app = http_app(access=HttpAccessControl(KeysByName(), audit))
    async with caller(app, Authorization="Bearer clinic") as client:
        answer = await client.post("/predict", **file_form(tagged_png(200)))
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "audit_unavailable")
        assert (await client.get("/healthz")).status_code == 200
