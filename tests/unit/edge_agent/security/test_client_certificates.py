from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from edge_agent.core.authorization import DenialReason, Denied, Principal, Role
from edge_agent.errors import ConfigInvalid
from edge_agent.security.client_certificates import (
    CertificateRules,
    get_peer_certificate,
    load_rules,
)
from tests.support.agents.certificates import DAY, NOW, Authority

RULES = """
[[certificate]]
subject = "CN=pacs-gateway,O=St Example"
role = "clinic"

[[certificate]]
dns = "ward3.example"
role = "viewer"
name = "ward-3"

[[certificate]]
uri = "spiffe://st.example/ops"
role = "admin"

[[certificate]]
subject = "CN=Klinik Süd"
role = "clinic"
name = "klinik-sued"
"""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "clients.toml"
    path.write_text(RULES, encoding="utf-8")
    return path


def rules(path: Path, now: datetime = NOW) -> CertificateRules:
    return CertificateRules(path, lambda: now)


def test_each_name_has_its_role(authority: Authority, path: Path) -> None:
    known = rules(path)
    assert len(known) == 4
    gateway = authority.client("CN=pacs-gateway,O=St Example")
    assert known.identify(gateway.certificate_pem) == Principal(
        "cert:CN=pacs-gateway,O=St Example", Role.CLINIC
    )
    ward = authority.client("CN=whatever", dns="WARD3.example")
    assert known.identify(ward.certificate_pem) == Principal("cert:ward-3", Role.VIEWER)
    ops = authority.client("CN=whatever", uri="spiffe://st.example/ops")
    assert known.identify(ops.certificate_pem) == Principal(
        "cert:spiffe://st.example/ops", Role.ADMIN
    )
    south = authority.client("CN=Klinik Süd")
    assert known.identify(south.certificate_pem) == Principal("cert:klinik-sued", Role.CLINIC)


def test_the_first_rule_that_matches_counts(authority: Authority, path: Path) -> None:
    both = authority.client("CN=pacs-gateway,O=St Example", uri="spiffe://st.example/ops")
    who = rules(path).identify(both.certificate_pem)
    assert isinstance(who, Principal)
    assert who.role is Role.CLINIC


@pytest.mark.parametrize(
    ("subject", "dns", "uri"),
    [
        ("CN=pacs-gateway", None, None),
        ("CN=pacs-gateway,O=Other", None, None),
        ("O=St Example,CN=pacs-gateway", None, None),  # another order is another name
        ("CN=ward3.example", None, None),  # a name in the subject is no host's name
        ("CN=x", "evil.ward3.example", None),
        ("CN=x", "*.example", None),
        ("CN=x", "spiffe", "spiffe://st.example/ops2"),
    ],
)
def test_other_names_are_unknown(
    authority: Authority, path: Path, subject: str, dns: str | None, uri: str | None
) -> None:
    who = rules(path).identify(authority.client(subject, dns=dns, uri=uri).certificate_pem)
    assert isinstance(who, Denied)
    assert who.reason is DenialReason.UNKNOWN_CREDENTIAL
    assert who.actor.startswith("cert:sha256=")  # the log can tell them apart all the same
    assert len(who.actor) == len("cert:sha256=") + 16


def test_a_server_certificate_is_no_client_certificate(authority: Authority, path: Path) -> None:
    known = rules(path)
    for use, good in (
        (ExtendedKeyUsageOID.SERVER_AUTH, False),
        (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE, True),
        (None, True),
    ):
        issued = authority.client("CN=pacs-gateway,O=St Example", use=use)
        assert isinstance(known.identify(issued.certificate_pem), Principal) is good


@pytest.mark.parametrize(
    ("ahead", "good"), [(-2 * DAY, False), (0 * DAY, True), (29 * DAY, True), (30 * DAY, False)]
)
def test_validity_is_checked_again(
    authority: Authority, path: Path, ahead: timedelta, good: bool
) -> None:
    issued = authority.client("CN=pacs-gateway,O=St Example")
    who = rules(path, NOW + ahead).identify(issued.certificate_pem)
    actor = "cert:CN=pacs-gateway,O=St Example"
    expected = (
        Principal(actor, Role.CLINIC) if good else Denied(DenialReason.EXPIRED_CREDENTIAL, actor)
    )
    assert who == expected


@pytest.mark.parametrize("pem", [b"", b"not PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_other_bytes_are_an_unknown_credential(path: Path, pem: bytes) -> None:
    assert rules(path).identify(pem) == Denied(DenialReason.UNKNOWN_CREDENTIAL)


def test_changed_rules_count_at_once(authority: Authority, path: Path) -> None:
    known = rules(path)
    pem = authority.client("CN=pacs-gateway,O=St Example").certificate_pem
    path.write_text('[[certificate]]\ndns = "other.example"\nrole = "viewer"\n')
    assert isinstance(known.identify(pem), Denied)
    path.write_text("[[certificate]]\n")
    assert known.problem is not None
    assert isinstance(known.identify(pem), Denied)


def test_problems_of_the_file_are_reported(path: Path) -> None:
    known = rules(path)
    path.write_text("[[certificate]]\n")
    assert "cannot be used" in (known.problem or "")
    path.write_text(RULES, encoding="utf-8")
    assert known.problem is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[certificate]]", "certificate.0"),
        ('[[certificate]]\ndns = "a"', "certificate.0.role"),
        ('[[certificate]]\nrole = "clinic"', "exactly one of"),
        ('[[certificate]]\nrole = "clinic"\ndns = "a"\nuri = "b"', "exactly one of"),
        ('[[certificate]]\nrole = "root"\ndns = "a"', "certificate.0.role"),
        ('[[certificate]]\nrole = "clinic"\nsubject = "pacs"', "certificate.0"),
        ('[[certificate]]\nrole = "clinic"\nsubject = "CN=S\\u00fcd"', "certificate.0.name"),
        ('[[certificate]]\nrole = "clinic"\ndns = "a"\nname = "a\\nb"', "certificate.0.name"),
        ('[[certificate]]\nrole = "clinic"\ndns = "a"\nage = 3', "certificate.0.age"),
        ('[[certificate]]\nrole = "clinic"\ndns = 7', "certificate.0"),
        ("certificate = 3", "certificate"),
        ("certificate = [3]", "certificate.0"),
        ("[[", "clients.toml cannot be used"),
        ("\xff", "clients.toml cannot be used"),
    ],
)
def test_invalid_rules_are_refused(path: Path, text: str, problem: str) -> None:
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigInvalid, match=problem) as caught:
        load_rules(path)
    assert caught.value.hint


def test_a_world_writable_rules_file_is_refused(path: Path) -> None:
    path.chmod(0o666)
    with pytest.raises(ConfigInvalid, match="changed by others"):
        load_rules(path)


def test_the_certificate_is_read_from_grpcs_auth_context() -> None:
    assert (
        get_peer_certificate({"x509_pem_cert": [b"PEM"], "transport_security_type": [b"ssl"]})
        == b"PEM"
    )
    assert get_peer_certificate({"transport_security_type": [b"ssl"]}) is None
    assert get_peer_certificate({}) is None
