"""Every error has one status and the same form."""

from __future__ import annotations

import json

import pytest

from edge_agent import errors
from edge_agent.errors import HilumError
from edge_agent.serving.http.errors import BodyTooLarge, quote, status_of, to_error_response
from hilum.codes import ErrorCode

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, HilumError)
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_of_its_group(kind: type[HilumError]) -> None:
    status = status_of(kind("x"))
    if issubclass(kind, errors.CallerError):
        assert status in {401, 403, 404, 422}
        assert (status == 404) == (kind is errors.UnknownModel)
    elif issubclass(kind, errors.TryLater):
        assert status in {503, 504}
    else:
        assert status == 500


@pytest.mark.parametrize(
    ("error", "status", "header"),
    [
        (errors.StudyImageRefused("x", code=ErrorCode.TOO_LARGE), 422, None),
        (BodyTooLarge("x"), 413, None),
        (errors.Unauthenticated("x"), 401, "www-authenticate"),
        (errors.Forbidden("x"), 403, None),
        (errors.Overloaded("x"), 503, "retry-after"),
        (errors.NotReady("x"), 503, "retry-after"),
        (errors.DeadlineExceeded("x"), 504, None),
        (errors.AuditUnavailable("x"), 500, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, HilumError) else str(value),
)
def test_an_error_is_converted_to_a_response(
    error: HilumError, status: int, header: str | None
) -> None:
    answer = to_error_response(error)
    assert answer.status_code == status
    body = json.loads(bytes(answer.body))
    assert body == {"error": {"code": error.code, "message": "x", "hint": error.hint}}
    assert answer.headers["cache-control"] == "no-store"
    assert {"www-authenticate", "retry-after"} & set(answer.headers) == ({header} - {None})


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a", '"a"'),
        ('"\n\x1b', '"\\"\\n\\u001b"'),
        ("é", '"\\u00e9"'),
        ("x" * 50, f'"{"x" * 40}..."'),
    ],
)
def test_quoted_text_is_short_and_printable(text: str, safe: str) -> None:
    assert quote(text) == safe
