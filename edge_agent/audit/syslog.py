"""Sends the log's entries as IHE ATNA messages to an audit record repository, by syslog over TLS.

Messages are those of RFC 5424, in the frames of RFC 5425 (its octet counting). A thread of its own
reads the entries after a cursor and sends them, and is never in the way of the log: it reads the
database as any other process does. The cursor moves when the receiver's TCP has acknowledged all
that was sent; syslog itself acknowledges nothing. So after a break some messages are sent twice,
and none is left out unless the receiver lost it after that. Therefore entries that were sent do not
count as exported.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import random
import select
import socket
import ssl
import struct
import termios
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_agent.audit.anchor import AnchorFile, read_anchor_file
from edge_agent.audit.atna import Source, build_message
from edge_agent.audit.database import DATABASE
from edge_agent.audit.reading import DatabaseReader
from edge_agent.core.audit_chain import ChainHead, parse_entry, parse_fields
from edge_agent.errors import ConfigInvalid

_log = logging.getLogger(__name__)
SYSLOG_CURSOR: Final = "syslog.cursor"
_PRIORITY: Final = (
    10 * 8 + 5
)  # Facility 10 (security), severity 5 (notice): RFC 5424 section 6.2.1.
_MESSAGE_ID: Final = "DICOM+RFC3881"  # DICOM PS3.15 A.6
_BATCH: Final = 200
_POLL_S: Final = 1.0
_TIMEOUT_S: Final = 10.0
_FIRST_DELAY_S: Final = 1.0
_LONGEST_DELAY_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class SyslogTarget:
    """An audit record repository.

    Attributes:
        host: its name, which its certificate must have.
        port: 6514 is syslog over TLS (RFC 5425 section 4.1).
        ca: PEM file of the CAs that may have signed its certificate; None for the system's.
        certificate: PEM file of the agent's certificate and its chain; None to send none.
        key: PEM file of the certificate's key.
        site: the site's name in the messages; may be empty.
    """

    host: str
    port: int = 6514
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    site: str = ""


def format_message(fields: Mapping[str, object], source: Source, process_id: int) -> bytes:
    """Return an entry as a syslog message (RFC 5424 section 6)."""
    host = source.box.replace(" ", "-")[:255] or "-"
    time_text = str(fields["utc"])
    header = f"<{_PRIORITY}>1 {time_text} {host} hilum-edge {process_id} {_MESSAGE_ID} - "
    # The byte order mark says that UTF-8 follows (section 6.4).
    return header.encode("ascii", "replace") + b"\xef\xbb\xbf" + build_message(fields, source)


def frame(message: bytes) -> bytes:
    """Return a message with its length before it (RFC 5425 section 4.3)."""
    return f"{len(message)} ".encode() + message


class SyslogSender:
    """Sends entries in a thread of its own, from `start` until `stop`."""

    def __init__(
        self,
        folder: Path,
        target: SyslogTarget,
        *,
        box_id: str,
        first_delay_s: float = _FIRST_DELAY_S,
        poll_s: float = _POLL_S,
    ) -> None:
        """Load the certificates.

        Args:
            folder: the audit log's folder.
            target: where to send to.
            box_id: the box's identity; empty for the machine's name.
            first_delay_s: the longest delay before the second attempt to connect.
            poll_s: time between two looks for new entries.

        Raises:
            ConfigInvalid: a certificate or key cannot be used.
        """
        self._folder = folder
        self._target = target
        self._source = Source(box_id or socket.gethostname(), target.site)
        self._context = _load_context(target)
        self._first_delay_s = first_delay_s
        self._poll_s = poll_s
        self._is_stopping = threading.Event()
        self._wake = threading.Event()
        self.sent = 0
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="audit-syslog", daemon=True)

    def start(self) -> None:
        """Start to send."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop after what is there has been sent, or after this time."""
        self._is_stopping.set()
        self._wake.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        attempts = 0
        while True:
            try:
                with self._connect() as connection:
                    attempts = 0
                    self._note(None)
                    self._send_all(connection)
            except (OSError, ValueError) as error:
                self._note(getattr(error, "strerror", None) or str(error))
            if self._is_stopping.is_set():
                return
            # Full jitter: agents that lost the same receiver do not come back all at once.
            longest_s = min(_LONGEST_DELAY_S, self._first_delay_s * 2**attempts)
            attempts = min(attempts + 1, 16)
            self._is_stopping.wait(random.uniform(0, longest_s))  # noqa: S311  # not a secret

    def _note(self, failure: str | None) -> None:
        if failure is not None and self.failure is None:
            _log.warning(
                "audit messages cannot be sent",
                extra={"host": self._target.host, "port": self._target.port, "error": failure},
            )
        elif failure is None and self.failure is not None:
            _log.info("audit messages can be sent again", extra={"host": self._target.host})
        self.failure = failure

    @contextlib.contextmanager
    def _connect(self) -> Iterator[ssl.SSLSocket]:
        address = (self._target.host, self._target.port)
        with (
            socket.create_connection(address, _TIMEOUT_S) as plain,
            self._context.wrap_socket(plain, server_hostname=self._target.host) as connection,
        ):
            yield connection

    def _send_all(self, connection: ssl.SSLSocket) -> None:
        """Send entries as they come, until the sender is stopped and nothing is left."""
        with contextlib.closing(self._open_cursor()) as cursor:
            self.sent = cursor.head.count
            while True:
                is_last = self._is_stopping.is_set()
                head = self._send_batch(connection, cursor.head)
                if head != cursor.head:
                    _wait_until_received(connection)
                    cursor.move(head)
                    self.sent = head.count
                elif is_last:
                    return
                else:
                    _check_open(connection)
                    self._wake.wait(self._poll_s)

    def _open_cursor(self) -> AnchorFile:
        """Open the cursor; it begins at the oldest entry, also if another chain is there now."""
        path = self._folder / SYSLOG_CURSOR
        try:
            head = read_anchor_file(path)
        except ValueError:
            head = None
        with DatabaseReader(self._folder / DATABASE, may_copy=False) as reader:
            if head is not None and head != reader.base and head != _read_head(reader, head.count):
                path.unlink()
                head = None
            return AnchorFile(path, head or reader.base)

    def _send_batch(self, connection: ssl.SSLSocket, head: ChainHead) -> ChainHead:
        """Send some entries after this end of the chain; return the end after them."""
        process_id, frames = os.getpid(), []
        with DatabaseReader(self._folder / DATABASE, may_copy=False) as reader:
            for _, line in reader.read(max(head.count, reader.base.count)):
                heads = parse_entry(line)
                if heads is None:
                    raise ValueError(f"entry {head.count} is damaged")
                frames.append(frame(format_message(parse_fields(line), self._source, process_id)))
                head = heads[1]
                if len(frames) == _BATCH:
                    break
        connection.sendall(b"".join(frames))
        return head


def _read_head(reader: DatabaseReader, count: int) -> ChainHead | None:
    for _, line in reader.read(count - 1):
        heads = parse_entry(line)
        return None if heads is None else heads[1]
    return None


def _wait_until_received(connection: ssl.SSLSocket) -> None:
    """Wait until the receiver's TCP has acknowledged all bytes.

    Raises:
        OSError: it does not within the time.
    """
    ends_at_s = time.monotonic() + _TIMEOUT_S
    pause_s = 0.001
    while _count_unacknowledged(connection):
        if time.monotonic() > ends_at_s:
            raise OSError("the receiver acknowledges nothing")
        time.sleep(pause_s)
        pause_s = min(0.1, 2 * pause_s)
    _check_open(connection)


def _count_unacknowledged(connection: ssl.SSLSocket) -> int:
    buffer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
    return int(struct.unpack("i", buffer)[0])


def _check_open(connection: ssl.SSLSocket) -> None:
    """Raise `OSError` if the receiver has closed the connection."""
    readable, _, _ = select.select([connection], [], [], 0)
    if readable:
        connection.setblocking(False)
        try:
            if not connection.recv(1):
                raise OSError("the receiver closed the connection")
        except ssl.SSLWantReadError:
            pass  # A message of TLS itself, such as a session ticket.
        finally:
            connection.settimeout(_TIMEOUT_S)


def _load_context(target: SyslogTarget) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=target.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if target.certificate is not None:
            context.load_cert_chain(target.certificate, target.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigInvalid(
            f"The certificates of audit.syslog cannot be used: {error}.",
            hint="Give PEM files: the repository's CA, and the agent's certificate with its key.",
        ) from None
    return context
