import pytest

from edge_agent.core.authorization import (
    GRANTED,
    LOOPBACK,
    Action,
    DenialReason,
    Denied,
    Listener,
    Principal,
    Role,
    authorize,
    check_listeners,
    identify_caller,
    is_loopback,
    is_permitted,
)
from edge_agent.errors import ConfigInvalid, Forbidden, Unauthenticated
from hilum.codes import ErrorCode

CLINIC = Principal("key:0123456789", Role.CLINIC)
GATEWAY = Principal("cert:gateway", Role.VIEWER)
WRONG_KEY = Denied(DenialReason.UNKNOWN_CREDENTIAL)


def test_each_role_includes_the_permissions_of_those_before_it() -> None:
    assert set(GRANTED) == set(Role)
    assert GRANTED[Role.VIEWER] < GRANTED[Role.CLINIC] < GRANTED[Role.ADMIN]


def test_the_table_of_permissions() -> None:
    viewer = {"health", "model", "metrics", "page"}
    assert {role: {a.value for a in Action if is_permitted(role, a)} for role in Role} == {
        Role.VIEWER: viewer,
        Role.CLINIC: viewer | {"detect"},
        Role.ADMIN: viewer | {"detect", "administer"},
    }


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),  # noqa: S104  # The address that is refused.
        ("::", False),
        ("", False),
        ("*", False),
        ("10.0.0.7", False),
        ("::ffff:10.0.0.7", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("127.1", False),
        ("xray", False),
    ],
)
def test_what_counts_as_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_loopback_without_credentials_is_open_to_the_box_itself() -> None:
    who = identify_caller(
        Listener("gRPC", "127.0.0.1"), key=None, certificate=None, peer_host="127.0.0.1"
    )
    assert who == LOOPBACK
    assert authorize(Action.DETECT, who) == LOOPBACK
    assert authorize(Action.ADMINISTER, who) == Denied(
        DenialReason.ROLE_TOO_LOW, "loopback", "clinic may not: administer"
    )


@pytest.mark.parametrize(
    ("listener", "peer", "forwarded", "reason"),
    [
        (
            Listener("x", "127.0.0.1", has_roles=True),
            "127.0.0.1",
            False,
            DenialReason.NO_CREDENTIAL,
        ),
        (
            Listener("x", "10.1.1.1", has_tls=True, has_roles=True),
            "127.0.0.1",
            False,
            DenialReason.NO_CREDENTIAL,
        ),
        # Such a listener is refused at the start, and denies callers nevertheless.
        (Listener("x", "10.1.1.1"), "127.0.0.1", False, DenialReason.NO_CREDENTIAL),
        (Listener("x", "127.0.0.1"), "10.1.1.2", False, DenialReason.NO_CREDENTIAL),
        (Listener("x", "127.0.0.1"), "127.0.0.1", True, DenialReason.FORWARDED),
    ],
)
def test_without_a_credential_all_else_is_closed(
    listener: Listener, peer: str, forwarded: bool, reason: DenialReason
) -> None:
    who = identify_caller(listener, key=None, certificate=None, peer_host=peer, forwarded=forwarded)
    assert isinstance(who, Denied)
    assert who.reason is reason


def test_a_unix_socket_is_on_the_box() -> None:
    who = identify_caller(Listener("x", "localhost"), key=None, certificate=None, peer_host="")
    assert who == LOOPBACK


@pytest.mark.parametrize(
    ("key", "certificate", "expected"),
    [
        (CLINIC, None, CLINIC),
        (None, GATEWAY, GATEWAY),
        (CLINIC, GATEWAY, CLINIC),
        (CLINIC, WRONG_KEY, CLINIC),
        (WRONG_KEY, GATEWAY, WRONG_KEY),
        (None, WRONG_KEY, WRONG_KEY),
    ],
)
@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.1.1"])
def test_a_key_that_is_sent_must_be_valid(
    host: str,
    key: Principal | Denied | None,
    certificate: Principal | Denied | None,
    expected: Principal | Denied,
) -> None:
    listener = Listener("gRPC", host, has_tls=True, has_roles=True)
    assert identify_caller(listener, key=key, certificate=certificate, peer_host=host) == expected


def test_a_wrong_key_is_no_free_pass_on_an_open_port() -> None:
    who = identify_caller(Listener("x", "127.0.0.1"), key=WRONG_KEY, certificate=None, peer_host="")
    assert who == WRONG_KEY


@pytest.mark.parametrize("action", Action)
def test_an_unknown_caller_is_permitted_nothing(action: Action) -> None:
    assert authorize(action, WRONG_KEY) == WRONG_KEY


@pytest.mark.parametrize("reason", DenialReason)
def test_every_denial_is_a_coded_error(reason: DenialReason) -> None:
    error = Denied(reason, "key:0123456789").to_error()
    assert isinstance(error, Forbidden | Unauthenticated)
    assert error.code in {ErrorCode.FORBIDDEN, ErrorCode.UNAUTHENTICATED}
    assert error.hint
    assert "0123456789" not in error.message  # The message does not reveal which keys exist.


def test_a_role_too_low_is_another_code_than_an_unknown_caller() -> None:
    too_low = authorize(Action.DETECT, GATEWAY)
    assert isinstance(too_low, Denied)
    assert too_low.actor == "cert:gateway"
    assert too_low.to_error().code is ErrorCode.FORBIDDEN
    assert WRONG_KEY.to_error().code is ErrorCode.UNAUTHENTICATED


def test_listeners_that_may_start() -> None:
    check_listeners(
        [
            Listener("gRPC", "127.0.0.1"),
            Listener("HTTP", "::1"),
            Listener("HTTP", "10.0.0.7", has_tls=True, has_roles=True),
        ]
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "10.0.0.7", "xray.example"])  # noqa: S104
@pytest.mark.parametrize(
    ("tls", "roles", "expected", "unexpected"),
    [
        (False, True, "plain text", "no roles"),
        (True, False, "no roles", "plain text"),
        (False, False, "plain text (radiographs and keys could be read on the way) and", "[]"),
    ],
)
def test_listeners_that_are_refused_with_the_reason(
    host: str, tls: bool, roles: bool, expected: str, unexpected: str
) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        check_listeners([Listener("HTTP", host, has_tls=tls, has_roles=roles)])
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    assert expected in caught.value.message
    assert unexpected not in caught.value.message
    assert host in caught.value.message
    assert caught.value.hint


def test_the_problems_of_both_ports_are_in_one_message() -> None:
    with pytest.raises(ConfigInvalid, match=r"gRPC would .* HTTP would"):
        check_listeners([Listener("gRPC", "10.0.0.7"), Listener("HTTP", "10.0.0.7", has_tls=True)])
