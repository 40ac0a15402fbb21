"""Entries reach a receiver by syslog over TLS, once it is there, and never hold up the log."""

import contextlib
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent.audit.database import DATABASE
from edge_agent.audit.log import AuditLimits, AuditLog
from edge_agent.audit.syslog import SyslogSender, SyslogTarget
from edge_agent.audit.verify import verify
from edge_agent.core.audit_chain import make_access_event
from edge_agent.core.authorization import Action, Principal, Role
from edge_agent.errors import ConfigInvalid
from tests.support.agents.atna_schema import find_schema_problems
from tests.support.agents.certificates import Authority
from tests.support.system.ports import free_port

CLINIC = Principal("key:0123456789", Role.CLINIC)
BOX = "0123456789abcdef" * 2
HEADER = re.compile(
    rb"<85>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00) ([0-9a-f]{32}) hilum-edge (\d+) "
    rb"DICOM\+RFC3881 - \xef\xbb\xbf(.*)",
    re.DOTALL,
)


class Receiver:
    """A TLS server that takes octet-counted frames apart (RFC 5425 section 4.3)."""

    def __init__(self, authority: Authority, port: int = 0, *, asks_client: bool = False) -> None:
        issued = authority.server()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(issued.certificate, issued.key)
        if asks_client:
            self._context.load_verify_locations(authority.certificate)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self.messages: list[bytes] = []
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            try:
                connection = self._context.wrap_socket(plain, server_side=True)
            except OSError:
                plain.close()
                continue
            self._connections.append(connection)
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: ssl.SSLSocket) -> None:
        with connection, connection.makefile("rb") as stream:
            while True:
                try:
                    digits = b""
                    while (byte := stream.read(1)).isdigit():
                        digits += byte
                    if byte != b" ":
                        return
                    self.messages.append(stream.read(int(digits)))
                except (OSError, ValueError):
                    return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def log_to(tmp_path: Path) -> Iterator[Callable[[SyslogTarget], AuditLog]]:
    logs: list[AuditLog] = []

    def open_it(target: SyslogTarget) -> AuditLog:
        for log in logs:
            log.close()
        log = AuditLog(
            tmp_path / "audit",
            utc_now=lambda: datetime.now(UTC),
            box_id=BOX,
            syslog=target,
            limits=AuditLimits(gather_s=0, reserve_entries=700),
        )
        logs.append(log)
        return log

    yield open_it
    for log in logs:
        log.close()


def wait_until(holds: Callable[[], bool]) -> None:
    turn = threading.Event()
    while not holds():
        turn.wait(0.005)


def record(log: AuditLog, count: int) -> None:
    for number in range(count):
        log.record(make_access_event(CLINIC, Action.DETECT, request=f"{number:08x}"))
    assert log.flush(30)


def target_of(authority: Authority, port: int, host: str = "localhost") -> SyslogTarget:
    return SyslogTarget(host, port, authority.certificate, site="St Example")


def entry_names(messages: list[bytes]) -> list[str]:
    """Return which entries the messages are for, in the order of their arrival."""
    return [re.findall(rb">(entry \d+)<", message)[0].decode() for message in messages]


def test_every_entry_arrives_as_a_valid_message(
    authority: Authority, log_to: Callable[[SyslogTarget], AuditLog]
) -> None:
    receiver = Receiver(authority)
    log = log_to(target_of(authority, receiver.port))
    record(log, 500)
    wait_until(lambda: log.status.sent == 501)
    assert log.close() == 0
    wait_until(lambda: len(receiver.messages) == 502)
    receiver.close()
    assert entry_names(receiver.messages) == [f"entry {number}" for number in range(502)]
    for message in receiver.messages:
        match = HEADER.fullmatch(message)
        assert match is not None, message
        assert match[2].decode() == BOX
        assert find_schema_problems(match[4]) == []
        assert match[1] in match[4]


def test_after_a_restart_only_new_entries_are_sent(
    authority: Authority, log_to: Callable[[SyslogTarget], AuditLog]
) -> None:
    receiver = Receiver(authority)
    target = target_of(authority, receiver.port)
    log_to(target).close()
    log_to(target).close()
    wait_until(lambda: len(receiver.messages) >= 4)
    receiver.close()
    assert entry_names(receiver.messages) == [f"entry {number}" for number in range(4)]


def test_a_receiver_that_is_away_holds_up_nothing_and_gets_all_later(
    authority: Authority, log_to: Callable[[SyslogTarget], AuditLog], tmp_path: Path
) -> None:
    port = free_port()
    log = log_to(target_of(authority, port))
    record(log, 300)
    wait_until(lambda: log.status.send_failure is not None)
    log.require()
    receiver = Receiver(authority, port)
    wait_until(lambda: log.status.sent == 301)
    assert log.status.send_failure is None
    wait_until(lambda: len(receiver.messages) == 301)
    receiver.close()
    assert entry_names(receiver.messages) == [f"entry {number}" for number in range(301)]
    wait_until(lambda: log.status.send_failure is not None)
    record(log, 10)
    again = Receiver(authority, port)
    late = {f"entry {number}" for number in range(301, 311)}
    wait_until(lambda: set(entry_names(again.messages)) >= late)
    log.close()
    again.close()
    assert verify(tmp_path / "audit").is_intact


@pytest.mark.parametrize("wrong", ["another CA", "another name", "no client certificate"])
def test_a_receiver_that_cannot_be_trusted_gets_nothing(
    authority: Authority, log_to: Callable[[SyslogTarget], AuditLog], tmp_path: Path, wrong: str
) -> None:
    receiver = Receiver(authority, asks_client=wrong == "no client certificate")
    ca = Authority(tmp_path, "other-ca") if wrong == "another CA" else authority
    host = "ip6-localhost" if wrong == "another name" else "localhost"
    if host != "localhost":
        host = socket.gethostname()
    log = log_to(target_of(ca, receiver.port, host))
    record(log, 3)
    wait_until(lambda: log.status.send_failure is not None)
    assert log.close() == 0
    receiver.close()
    assert receiver.messages == []


def test_the_agents_own_certificate_is_shown(
    authority: Authority, log_to: Callable[[SyslogTarget], AuditLog]
) -> None:
    receiver = Receiver(authority, asks_client=True)
    issued = authority.client("CN=box-1")
    target = SyslogTarget(
        "localhost", receiver.port, authority.certificate, issued.certificate, issued.key
    )
    log = log_to(target)
    wait_until(lambda: log.status.sent == 1)
    log.close()
    wait_until(lambda: len(receiver.messages) == 2)
    receiver.close()


def test_a_cursor_of_another_chain_begins_anew(
    authority: Authority, log_to: Callable[[SyslogTarget], AuditLog], tmp_path: Path
) -> None:
    receiver = Receiver(authority)
    target = target_of(authority, receiver.port)
    log = log_to(target)
    record(log, 20)
    wait_until(lambda: log.status.sent == 21)
    log.close()
    wait_until(lambda: len(receiver.messages) == 22)
    for name in (DATABASE, f"{DATABASE}-wal", "audit.anchor"):
        (tmp_path / "audit" / name).unlink()
    receiver.messages.clear()
    log = log_to(target)
    wait_until(lambda: log.status.sent == 1)
    log.close()
    wait_until(lambda: len(receiver.messages) == 2)
    receiver.close()
    assert entry_names(receiver.messages) == ["entry 0", "entry 1"]


def test_certificates_that_cannot_be_used_end_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"certificates of audit\.syslog"):
        SyslogSender(tmp_path, SyslogTarget("localhost", ca=tmp_path / "absent"), box_id=BOX)


RSYSLOG = """
module(load="imtcp" StreamDriver.Name="gtls" StreamDriver.Mode="1"
    StreamDriver.AuthMode="anon")
global(workDirectory="{folder}" maxMessageSize="64k" defaultNetstreamDriver="gtls"
    defaultNetstreamDriverCAFile="{ca}" defaultNetstreamDriverCertFile="{certificate}"
    defaultNetstreamDriverKeyFile="{key}")
template(name="raw" type="string" string="%rawmsg%\\n")
input(type="imtcp" address="127.0.0.1" port="{port}")
action(type="omfile" file="{folder}/received" template="raw")
"""


@pytest.mark.service("rsyslogd")
def test_rsyslog_receives_every_entry(
    authority: Authority, log_to: Callable[[SyslogTarget], AuditLog], tmp_path: Path
) -> None:
    port, issued = free_port(), authority.server()
    (tmp_path / "rsyslog.conf").write_text(
        RSYSLOG.format(
            folder=tmp_path,
            ca=authority.certificate,
            certificate=issued.certificate,
            key=issued.key,
            port=port,
        )
    )
    program = shutil.which("rsyslogd", path="/usr/sbin:/usr/bin") or "rsyslogd"
    command = [program, "-n", "-f", tmp_path / "rsyslog.conf", "-i", tmp_path / "pid"]
    with subprocess.Popen(command) as rsyslog:
        try:
            log = log_to(target_of(authority, port))
            record(log, 50)
            wait_until(lambda: log.status.sent == 51)
            log.close()
            received = tmp_path / "received"
            wait_until(lambda: received.exists() and received.read_bytes().count(b"<85>1 ") >= 52)
        finally:
            rsyslog.terminate()
    lines = received.read_bytes().splitlines()
    assert re.findall(rb">(entry \d+)<", received.read_bytes()) == [
        f"entry {number}".encode() for number in range(52)
    ]
    assert b"<AuditMessage>" in b"".join(lines)
