"""Client certificates: rules that map a verified certificate to a role.

The TLS layer has verified the chain against the configured CA before; the rules select which of
that CA's names are known to this agent. They are in a TOML file:

    [[certificate]]
    subject = "CN=pacs-gateway,O=St Example"   # openssl x509 -subject -nameopt RFC2253
    role = "clinic"

    [[certificate]]
    dns = "ward3.example"                      # or uri = "spiffe://st.example/ward3"
    role = "viewer"
    name = "ward-3"                            # in the audit log; default: the matched name

The first rule that matches applies.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge_agent.core.audit_chain import ACTOR_NAME
from edge_agent.core.authorization import AuthResult, DenialReason, Denied, Principal, Role
from edge_agent.errors import ConfigInvalid
from edge_agent.system.config_files import ReloadingFile, read_config_file

_DESCRIPTION: Final = "client certificate rules file"


class CertificateRule(BaseModel):
    """A name in certificates, and the role of a certificate's holder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    subject: str | None = None
    dns: str | None = None
    uri: str | None = None
    name: Annotated[str, Field(pattern=ACTOR_NAME)] = ""

    @model_validator(mode="before")
    @classmethod
    def _has_one_name(cls, values: object) -> object:
        if not isinstance(values, Mapping):
            return values
        matched = [values[key] for key in ("subject", "dns", "uri") if values.get(key)]
        if len(matched) != 1:
            raise ValueError("give exactly one of subject, dns and uri")
        return {"name": matched[0], **values}

    @model_validator(mode="after")
    def _is_subject_parsable(self) -> CertificateRule:
        if self.subject is not None:
            x509.Name.from_rfc4514_string(self.subject)
        return self

    def matches(self, certificate: x509.Certificate) -> bool:
        """Return whether the certificate has this rule's name."""
        if self.subject is not None:
            return certificate.subject == x509.Name.from_rfc4514_string(self.subject)
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            return False
        if self.dns is not None:
            hosts = names.value.get_values_for_type(x509.DNSName)
            return self.dns.lower() in {host.lower() for host in hosts}
        return self.uri in names.value.get_values_for_type(x509.UniformResourceIdentifier)


class _RulesFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    certificate: tuple[CertificateRule, ...] = ()


def load_rules(path: Path) -> tuple[CertificateRule, ...]:
    """Read the rules file. It holds no secrets, but others must not be able to change it.

    Raises:
        ConfigInvalid: it is missing or malformed.
    """
    data = read_config_file(path, _DESCRIPTION, is_private=False)
    try:
        return _RulesFile.model_validate(tomllib.loads(data.decode())).certificate
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        problem = f"{where}: {first['msg']}"
    except ValueError as error:  # not UTF-8, not TOML
        problem = str(error)
    raise ConfigInvalid(
        f"The {_DESCRIPTION} {path} cannot be used: {problem}.",
        hint="Write [[certificate]] sections with role and one of subject, dns and uri.",
    )


class CertificateRules:
    """Finds the holder of a certificate; changes of the rules file count at once."""

    def __init__(self, path: Path, utc_now: Callable[[], datetime]) -> None:
        """Read the rules.

        Raises:
            ConfigInvalid: they are invalid.
        """
        self._file: ReloadingFile[tuple[CertificateRule, ...]] = ReloadingFile(
            path, load_rules, gone=()
        )
        self._utc_now = utc_now

    def __len__(self) -> int:
        return len(self._file.get())

    @property
    def problem(self) -> str | None:
        """The reason why the file's last change is not in force; None if it is."""
        return self._file.problem

    def identify(self, pem: bytes) -> AuthResult:
        """Return the holder of this certificate, which the TLS layer has verified, or the denial.

        Its validity is checked again, because a connection may stay open for longer.

        Args:
            pem: the certificate in PEM.
        """
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            unmapped_actor = f"cert:sha256={certificate.fingerprint(hashes.SHA256()).hex()[:16]}"
            rule = next((r for r in self._file.get() if r.matches(certificate)), None)
            is_for_clients = _is_for_clients(certificate)
        except (ValueError, x509.DuplicateExtension):
            return Denied(DenialReason.UNKNOWN_CREDENTIAL)
        if rule is None or not is_for_clients:
            return Denied(DenialReason.UNKNOWN_CREDENTIAL, unmapped_actor)
        actor = f"cert:{rule.name}"
        now = self._utc_now()
        if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
            return Denied(DenialReason.EXPIRED_CREDENTIAL, actor)
        return Principal(actor, rule.role)


def _is_for_clients(certificate: x509.Certificate) -> bool:
    # RFC 5280 section 4.2.1.12: if uses are listed, only those are allowed.
    try:
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return (
        ExtendedKeyUsageOID.CLIENT_AUTH in uses
        or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in uses
    )


def get_peer_certificate(auth_context: Mapping[str, Iterable[bytes]]) -> bytes | None:
    """Return the peer's certificate in gRPC's `auth_context()`; None if it sent none."""
    return next(iter(auth_context.get("x509_pem_cert", ())), None)
