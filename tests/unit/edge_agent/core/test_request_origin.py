import pytest

from edge_agent.core.authorization import DenialReason, Denied
from edge_agent.core.request_origin import (
    Authority,
    TrustedHosts,
    check_request,
    parse_authority,
    parse_origin,
    parse_trusted_hosts,
)
from edge_agent.errors import ConfigInvalid

LOCAL = parse_trusted_hosts("http")
SITE = parse_trusted_hosts(
    "https", ["xray.example", "10.0.0.7", "fd00::7"], ["https://pacs.example:8443"]
)


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (LOCAL, "localhost:8080"),
        (LOCAL, "127.0.0.1:8080"),
        (LOCAL, "[::1]:8080"),
        (LOCAL, "LocalHost"),
        (LOCAL, "localhost.:8080"),
        (SITE, "xray.example"),
        (SITE, "XRAY.example:8443"),
        (SITE, "10.0.0.7"),
        (SITE, "[fd00:0::7]:443"),
        (SITE, "localhost:8080"),
    ],
)
def test_the_pages_own_names_pass(names: TrustedHosts, host: str) -> None:
    assert check_request(names, method="GET", host=[host]) is None


@pytest.mark.parametrize(
    "host",
    [
        [],
        [""],
        ["evil.example"],
        ["evil.example:8080"],
        ["localhost.evil.example"],
        ["evil.localhost"],
        ["localhost@evil.example"],
        ["localhost, evil.example"],
        ["localhost", "localhost"],
        ["localhost:0"],
        ["localhost:99999"],
        ["localhost:"],
        ["localhost:8080/"],
        [" localhost"],
        ["127.0.0.1.evil.example"],
        ["::1"],
        ["[::1"],
        ["[::zz]"],
        ["0.0.0.0:8080"],
        ["localho\u017ft"],
        ["localhost\n"],
    ],
)
def test_any_other_name_is_refused(host: list[str]) -> None:
    assert check_request(LOCAL, method="GET", host=host) == Denied(DenialReason.WRONG_HOST)


@pytest.mark.parametrize(
    ("names", "host", "origin"),
    [
        (LOCAL, "localhost:8080", "http://localhost:8080"),
        (LOCAL, "127.0.0.1", "http://127.0.0.1:80"),
        (LOCAL, "[::1]:8080", "http://[::1]:8080"),
        (SITE, "xray.example", "https://xray.example"),
        (SITE, "xray.example:443", "https://xray.example"),
        (SITE, "xray.example", "https://pacs.example:8443"),
    ],
)
def test_the_page_may_post_to_itself(names: TrustedHosts, host: str, origin: str) -> None:
    assert check_request(names, method="POST", host=[host], origin=[origin]) is None


@pytest.mark.parametrize(
    ("names", "host", "origin"),
    [
        (LOCAL, "localhost:8080", ["http://localhost:3000"]),
        (LOCAL, "localhost:8080", ["https://localhost:8080"]),
        (LOCAL, "localhost:8080", ["http://127.0.0.1:8080"]),
        (LOCAL, "localhost:8080", ["null"]),
        (LOCAL, "localhost:8080", [""]),
        (LOCAL, "localhost:8080", ["http://localhost:8080", "http://localhost:8080"]),
        (LOCAL, "localhost:8080", ["http://localhost:8080/"]),
        (LOCAL, "localhost:8080", ["http://evil@localhost:8080"]),
        (SITE, "xray.example", ["http://xray.example"]),
        (SITE, "xray.example", ["https://evil.example"]),
        (SITE, "xray.example", ["https://pacs.example"]),
        (SITE, "xray.example", ["https://xray.example.evil.example"]),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_pages_may_not(
    names: TrustedHosts, host: str, origin: list[str], method: str
) -> None:
    denied = check_request(names, method=method, host=[host], origin=origin)
    assert denied == Denied(DenialReason.WRONG_ORIGIN)


@pytest.mark.parametrize(
    ("method", "site", "mode", "passes"),
    [
        ("POST", None, None, True),  # curl, requests
        ("POST", "same-origin", "cors", True),
        ("GET", "none", "navigate", True),  # typed into the address bar
        ("GET", "cross-site", "navigate", True),  # a link on the hospital's intranet
        ("GET", "same-site", "navigate", True),
        ("GET", "cross-site", "no-cors", False),  # <img src=...>
        ("POST", "cross-site", "navigate", False),  # a form without an Origin
        ("POST", "same-site", "cors", False),
        ("GET", "nonsense", None, False),
    ],
)
def test_fetch_metadata_decides_without_an_origin(
    method: str, site: str | None, mode: str | None, passes: bool
) -> None:
    denied = check_request(
        LOCAL, method=method, host=["localhost"], fetch_site=site, fetch_mode=mode
    )
    assert (denied is None) is passes


@pytest.mark.parametrize("host", ["https://x", "x:443", "", "a b", "x/y", "*"])
def test_configured_hosts_must_be_names(host: str) -> None:
    with pytest.raises(ConfigInvalid, match="not a host"):
        parse_trusted_hosts("https", [host])


@pytest.mark.parametrize("origin", ["x.example", "ftp://x", "https://x/y", "null", "*"])
def test_configured_origins_must_be_origins(origin: str) -> None:
    with pytest.raises(ConfigInvalid, match="not an origin"):
        parse_trusted_hosts("https", origins=[origin])


def test_addresses_are_compared_by_value_not_spelling() -> None:
    assert parse_authority("[FD00:0:0::7]:443") == Authority("fd00::7", 443)
    assert parse_origin("https://[fd00::0:7]") == ("https", "fd00::7", 443)
