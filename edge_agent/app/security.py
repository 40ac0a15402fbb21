"""Who may come in: TLS, keys, certificates and the audit log, opened before anything listens."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from edge_agent.audit.log import AuditLog
from edge_agent.config import Settings
from edge_agent.core.authorization import Listener, check_listeners, is_loopback
from edge_agent.core.request_origin import TrustedHosts, parse_trusted_hosts
from edge_agent.errors import ConfigInvalid
from edge_agent.security.api_keys import ApiKeyStore
from edge_agent.security.authentication import Authenticator
from edge_agent.security.client_certificates import CertificateRules
from edge_agent.security.tls import Tls, TlsFiles, load_tls


@dataclass(frozen=True, slots=True)
class ListenerSecurity:
    """Both ports' gates, and what stands behind them."""

    grpc: Authenticator
    http: Authenticator
    tls: Tls | None
    audit: AuditLog | None
    names: TrustedHosts


def utc_now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)


def load_security(settings: Settings) -> ListenerSecurity:
    """Read all files and open the audit log. Blocks until that is on the disk.

    Raises:
        ConfigInvalid: a file cannot be used, or the agent would be open to other machines.
    """
    tls = _tls(settings)
    keys = ApiKeyStore(settings.access.keys, utc_now) if settings.access.keys else None
    rules_file = settings.access.certificate_rules
    if rules_file is not None and settings.tls.client_ca is None:
        raise ConfigInvalid(
            "access.certificate_rules is set, but gRPC asks for no client certificates.",
            hint="Set tls.client_ca to the CA that signs them.",
        )
    if rules_file is not None and keys is None and settings.http.enabled:
        raise ConfigInvalid(
            "access.certificate_rules is set and access.keys is not: HTTP knows callers by key "
            "only, so its port would stay open to everybody on this box.",
            hint="Set access.keys (hilum-edge keys add), or http.enabled to false.",
        )
    rules = CertificateRules(rules_file, utc_now) if rules_file else None
    speaks_tls = tls is not None
    grpc = Authenticator("gRPC", settings.grpc.host, tls=speaks_tls, keys=keys, certificates=rules)
    # uvicorn hands on no peer certificate, so HTTP knows callers by key only.
    http = Authenticator("HTTP", settings.http.host, tls=speaks_tls, keys=keys)
    listeners = [grpc.listener] + [http.listener] * settings.http.enabled
    check_listeners(listeners)
    _check_audited(settings, listeners)
    names = _page_names(settings, tls)
    return ListenerSecurity(grpc, http, tls, _audit(settings), names)


def _tls(settings: Settings) -> Tls | None:
    files = settings.tls
    if files.certificate is None or files.key is None:
        return None
    return load_tls(TlsFiles(files.certificate, files.key, files.client_ca), utc_now())


def _check_audited(settings: Settings, listeners: list[Listener]) -> None:
    if not settings.audit.enabled and not all(is_loopback(it.host) for it in listeners):
        raise ConfigInvalid(
            "The audit log is switched off, and other machines can reach this agent.",
            hint="Leave audit.enabled on, or listen on 127.0.0.1.",
        )


def _audit(settings: Settings) -> AuditLog | None:
    if not settings.audit.enabled:
        return None
    return AuditLog(settings.audit_dir, utc_now=utc_now)


def _page_names(settings: Settings, tls: Tls | None) -> TrustedHosts:
    http = settings.http
    wildcard = http.host in {"", "0.0.0.0", "::"}  # noqa: S104  # no name of this box
    hosts = http.hosts if wildcard else (http.host, *http.hosts)
    return parse_trusted_hosts("http" if tls is None else "https", hosts, http.origins)
