"""Loads the protection of the ports: TLS, API keys, certificate rules and the audit log.

All of it is loaded before the agent listens, so that a mistake in the settings ends the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from edge_agent.audit.log import AuditLimits, AuditLog
from edge_agent.audit.retention import RetentionRules
from edge_agent.audit.syslog import SyslogTarget
from edge_agent.config import Settings
from edge_agent.core.authorization import Listener, check_listeners, is_loopback
from edge_agent.core.request_origin import TrustedHosts, parse_trusted_hosts
from edge_agent.errors import ConfigInvalid
from edge_agent.security.api_keys import ApiKeyStore
from edge_agent.security.authentication import Authenticator
from edge_agent.security.client_certificates import CertificateRules
from edge_agent.security.tls import ReloadingTls, TlsFiles


@dataclass(frozen=True, slots=True)
class ListenerSecurity:
    """An authenticator for each port, and what both ports share.

    Attributes:
        grpc, http: authenticate the callers of each port.
        tls: the server's certificate, renewed without a restart; None for plain text.
        audit: the log of every access; None if it is switched off.
        trusted_hosts: the names under which browsers may address the HTTP port.
    """

    grpc: Authenticator
    http: Authenticator
    tls: ReloadingTls | None
    audit: AuditLog | None
    trusted_hosts: TrustedHosts


def utc_now() -> datetime:
    """Return the time in UTC, with its zone."""
    return datetime.now(UTC)


def load_security(settings: Settings, box_id: str) -> ListenerSecurity:
    """Read all files and open the audit log. Blocks until the log's first entry is on the disk.

    Args:
        settings: the files, and which listeners there are.
        box_id: the box's identity, which the audit log names.

    Raises:
        ConfigInvalid: a file cannot be used, or other machines could use the agent without TLS and
            a role.
    """
    tls = _load_tls(settings)
    keys = ApiKeyStore(settings.access.keys, utc_now) if settings.access.keys else None
    _check_certificate_rules(settings)
    rules_file = settings.access.certificate_rules
    rules = CertificateRules(rules_file, utc_now) if rules_file else None
    has_tls = tls is not None
    grpc = Authenticator("gRPC", settings.grpc.host, tls=has_tls, keys=keys, certificates=rules)
    # uvicorn passes on no client certificate, so HTTP callers are identified by API key alone.
    http = Authenticator("HTTP", settings.http.host, tls=has_tls, keys=keys)
    listeners = [grpc.listener] + [http.listener] * settings.http.enabled
    check_listeners(listeners)
    _check_audit(settings, listeners)
    return ListenerSecurity(
        grpc, http, tls, _open_audit(settings, box_id), _trusted_hosts(settings, tls)
    )


def _check_certificate_rules(settings: Settings) -> None:
    if settings.access.certificate_rules is None:
        return
    if settings.tls.client_ca is None:
        raise ConfigInvalid(
            "access.certificate_rules is set, but gRPC asks for no client certificates.",
            hint="Set tls.client_ca to the CA that signs them.",
        )
    if settings.access.keys is None and settings.http.enabled:
        raise ConfigInvalid(
            "access.certificate_rules is set and access.keys is not. HTTP identifies callers by "
            "API key alone, so every program on this machine could use its port.",
            hint="Set access.keys (hilum-edge keys add), or http.enabled to false.",
        )


def _load_tls(settings: Settings) -> ReloadingTls | None:
    files = settings.tls
    if files.certificate is None or files.key is None:
        return None
    return ReloadingTls(TlsFiles(files.certificate, files.key, files.client_ca), utc_now)


def _check_audit(settings: Settings, listeners: list[Listener]) -> None:
    if not settings.audit.enabled and not all(is_loopback(listener.host) for listener in listeners):
        raise ConfigInvalid(
            "The audit log is switched off, and other machines can reach this agent.",
            hint="Leave audit.enabled on, or listen on 127.0.0.1.",
        )


def _open_audit(settings: Settings, box_id: str) -> AuditLog | None:
    if not settings.audit.enabled:
        return None
    audit = settings.audit
    limits = AuditLimits(
        reserve_entries=audit.reserve_entries,
        retention=RetentionRules(audit.retention_days, audit.max_bytes),
    )
    target = audit.syslog
    syslog = None
    if target.host is not None:
        syslog = SyslogTarget(
            target.host, target.port, target.ca, target.certificate, target.key, target.site
        )
    return AuditLog(
        settings.audit_dir, utc_now=utc_now, box_id=box_id, syslog=syslog, limits=limits
    )


def _trusted_hosts(settings: Settings, tls: ReloadingTls | None) -> TrustedHosts:
    http = settings.http
    is_wildcard = http.host in {"", "0.0.0.0", "::"}  # noqa: S104  # no machine's name
    hosts = http.hosts if is_wildcard else (http.host, *http.hosts)
    return parse_trusted_hosts("http" if tls is None else "https", hosts, http.origins)
