"""The open audit log: accesses are queued, and a writer thread makes them durable.

Guarantees (docs/decisions/0011-audit-log.md and 0090-audit-log-in-sqlite.md):

- `record` only queues, which takes microseconds. The writer thread collects entries for
  `gather_s`, commits them in one transaction, then moves the anchor. A power cut loses at most the
  entries queued since; a clean stop loses none. `flush` waits for durability.
- Entries go to space that is reserved on the disk beforehand, so that a full
  disk refuses nothing while the reserve lasts.
- An access that cannot be logged is refused: while the disk fails, or is full and the reserve is
  used up, or the queue is full, `require` raises. Queued entries stay queued and are written when
  the disk recovers.
- Denials beyond a rate are counted in one entry, so that unauthenticated callers cannot fill the
  disk.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from edge_agent.audit.retention import RetentionRules
from edge_agent.audit.store import ChainStore
from edge_agent.audit.syslog import SyslogSender, SyslogTarget
from edge_agent.core.audit_chain import AuditEvent, DenialTokenBucket, Marker
from edge_agent.core.authorization import DenialReason
from edge_agent.errors import AuditUnavailable, ConfigInvalid

_log = logging.getLogger(__name__)
_REQUEST_DIGITS: Final = 32
_SEND_LAST_S: Final = 1.0
"""Time for the last messages to the audit record repository when the log is closed."""


@dataclass(frozen=True, slots=True)
class AuditLimits:
    """Sizes, intervals and rates of the log.

    Attributes:
        queue_size: with this many entries queued, accesses are refused; denials and results of
            requests in flight are still accepted, up to twice as many.
        reserve_entries: number of entries for which space is reserved on the disk; the default
            takes 117 MB.
        reserve_pause_s: time between two steps of 700 entries while space is reserved or freed.
        reserve_retry_s: time until the next look at exports, old entries and the disk's room.
        retention: when the oldest entries are removed.
        gather_s: time that the first entry waits for others before it is written.
        retry_s: time between a failure and the next attempt to write.
        denials_burst: number of denials in a row that are listed one by one.
        denials_per_s: rate at which denials are listed in the long run.
    """

    queue_size: int = 4096
    reserve_entries: int = 200_000
    retention: RetentionRules = field(default_factory=RetentionRules)
    reserve_pause_s: float = 0.25
    reserve_retry_s: float = 30.0
    gather_s: float = 0.05
    retry_s: float = 1.0
    denials_burst: int = 100
    denials_per_s: float = 1.0


@dataclass(frozen=True, slots=True)
class AuditStatus:
    """State of the log.

    Attributes:
        entries: number of entries in the chain since its beginning.
        waiting: number of entries that are not durable yet.
        lost: number of entries that were dropped because the queue was full.
        failure: the reason why nothing can be written; None if it can.
        exported: number of entries before the end of the last export.
        reserved: number of entries for which space is reserved on the disk.
        reserve_wanted: number of entries for which space is to be reserved.
        size_bytes: size of the database.
        sent: number of entries before the last one that was sent to the audit record repository.
        send_failure: the reason why entries cannot be sent; None if they can, or are not to be.
    """

    entries: int
    waiting: int
    lost: int
    failure: str | None
    exported: int = 0
    reserved: int = 0
    reserve_wanted: int = 0
    size_bytes: int = 0
    sent: int = 0
    send_failure: str | None = None


class AuditLog:
    """An audit log that is open for writing. All methods are thread-safe."""

    def __init__(
        self,
        folder: Path,
        *,
        utc_now: Callable[[], datetime],
        box_id: str = "",
        syslog: SyslogTarget | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
        limits: AuditLimits | None = None,
    ) -> None:
        """Open the log, and record that it was opened.

        Args:
            folder: the log's folder, which is made if absent.
            utc_now: the clock for entries, with a time zone.
            box_id: the box's identity, 32 hexadecimal digits, which the chain holds from now on. A
                folder with another box's log is set aside. Empty: the log names no box.
            syslog: the audit record repository to send the entries to; None to send none.
            monotonic_s: the clock for the rate of denials, in seconds.
            limits: sizes, intervals and rates; None for the defaults.

        Raises:
            ConfigInvalid: the folder cannot be used, or another process writes to it, or a
                certificate for the repository cannot be used.
        """
        self._sender = None if syslog is None else SyslogSender(folder, syslog, box_id=box_id)
        self._utc_now = utc_now
        self._monotonic_s = monotonic_s
        self._limits = limits or AuditLimits()
        self._denials = DenialTokenBucket(
            burst=self._limits.denials_burst, per_s=self._limits.denials_per_s
        )
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)  # The writer thread waits for it.
        self._written = threading.Condition(self._lock)  # `flush` waits for it.
        self._queue: deque[tuple[datetime, AuditEvent]] = deque()
        self._lost = 0  # Entries dropped because the queue was full.
        self._lost_unrecorded = 0  # Those of them that no entry counts yet.
        self._failure: str | None = None  # Why the last attempt to write failed.
        self._is_flush_requested = False  # The writer is not to wait `gather_s`.
        self._is_closing = False  # No further entry is accepted.
        self._has_writer_ended = False
        self._is_short_of_disk = False  # The last step of the reserve found no room.
        try:
            self._store = ChainStore(
                folder,
                box_id=box_id,
                reserve_entries=self._limits.reserve_entries,
                retention=self._limits.retention,
                now=utc_now(),
            )
        except OSError as error:
            raise ConfigInvalid(
                f"The audit log's folder {folder} cannot be used: {error.strerror}.",
                hint="Give a folder on a disk with room that the agent's user may write to.",
            ) from None
        self._queue.extend((utc_now(), event) for event in self._store.opening_events)
        self._upkeep_at_s = time.monotonic()  # When the next step of the upkeep is due.
        self._open_chain()
        self._thread = threading.Thread(target=self._run, name="audit-log", daemon=True)
        self._thread.start()
        if self._sender is not None:
            self._sender.start()

    def require(self) -> None:
        """Require that an access can be logged; call it before the access is granted.

        Raises:
            AuditUnavailable: the log is closed, fails or does not keep up.
        """
        if self._is_closing:
            raise AuditUnavailable("The audit log is closed.", hint="The agent is stopping.")
        if self._has_writer_ended:
            raise AuditUnavailable("The audit log's writer has ended.", hint="Restart the agent.")
        if self._failure is not None:
            raise AuditUnavailable(f"The audit log cannot be written: {self._failure}.")
        if len(self._queue) >= self._limits.queue_size:
            raise AuditUnavailable("The audit log's disk does not keep up.")

    def record(self, event: AuditEvent) -> None:
        """Queue an entry. Never raises, because the access has happened already."""
        now_s = self._monotonic_s()
        with self._lock:
            self._enqueue_unlisted_denials(now_s)
            if not isinstance(event.outcome, DenialReason) or self._denials.admit(now_s):
                self._enqueue(event)

    def request_digest(self, request_id: str) -> str:
        """Return the 32 hexadecimal digits that the log holds instead of a request's id.

        Callers may use accession numbers as ids, which are few enough to try them all. So the
        digest is keyed (HMAC-SHA-256) with a key that stays in the log's folder: with the key, an
        id leads to its entry, but no entry leads to an id. Without an id, the digest is random.
        """
        if not request_id:
            return secrets.token_hex(_REQUEST_DIGITS // 2)
        id_bytes = request_id.encode(errors="replace")
        digest = hmac.digest(self._store.request_key, id_bytes, hashlib.sha256)
        return digest.hex()[:_REQUEST_DIGITS]

    @property
    def status(self) -> AuditStatus:
        """The log's present state."""
        return AuditStatus(
            entries=self._store.head.count,
            waiting=len(self._queue),
            lost=self._lost,
            failure=self._failure,
            exported=self._store.exported,
            reserved=self._store.reserved,
            reserve_wanted=self._limits.reserve_entries,
            size_bytes=self._store.size_bytes,
            sent=0 if self._sender is None else self._sender.sent,
            send_failure=None if self._sender is None else self._sender.failure,
        )

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all queued entries are durable; blocks, so call it off the event loop.

        Returns:
            False if they are not within the time.
        """
        with self._lock:
            self._is_flush_requested = self._has_unwritten
            self._changed.notify()
            self._written.wait_for(
                lambda: self._has_writer_ended or not self._has_unwritten, timeout_s
            )
            return not self._has_unwritten

    def close(self, timeout_s: float | None = None) -> int:
        """Write the queued entries, record that the log was closed, and release the folder.

        Blocks for at most `timeout_s`: call it off the event loop, after the last access was
        recorded.

        Returns:
            The number of entries that could not be written because the disk is full or failing.
        """
        with self._lock:
            if self._is_closing:
                return len(self._queue)
            self._enqueue_unlisted_denials(self._monotonic_s(), closing=True)
            self._enqueue(AuditEvent(Marker.CLOSED))
            self._is_closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            _log.error("the audit log's disk hangs", extra={"unwritten_entries": len(self._queue)})
            return len(self._queue)
        if self._sender is not None:
            self._sender.stop(_SEND_LAST_S)
        self._store.close()
        head = self._store.head
        _log.info("audit log closed", extra={"entries": head.count, "hash": head.hash})
        if self._queue:
            _log.error(
                "audit entries could not be written",
                extra={"unwritten_entries": len(self._queue)},
            )
        return len(self._queue)

    # --- with the lock held ---

    def _enqueue_unlisted_denials(self, now_s: float, *, closing: bool = False) -> None:
        unlisted = self._denials.take_unlisted(now_s, closing=closing)
        if unlisted:
            self._enqueue(AuditEvent(Marker.DENIALS_UNLISTED, count=unlisted))

    def _enqueue(self, event: AuditEvent) -> None:
        if self._is_closing or len(self._queue) >= 2 * self._limits.queue_size:
            self._lost += 1
            self._lost_unrecorded += 1
            return
        utc = self._utc_now()
        if not self._queue:
            self._changed.notify()
        if self._lost_unrecorded:
            marker = AuditEvent(Marker.ENTRIES_LOST, count=self._lost_unrecorded)
            self._queue.append((utc, marker))
            self._lost_unrecorded = 0
        self._queue.append((utc, event))

    @property
    def _has_unwritten(self) -> bool:
        return bool(self._queue) or self._store.is_anchor_behind

    # --- in the writer thread ---

    def _run(self) -> None:
        try:
            self._write_until_closed()
        finally:
            # Also after an unexpected error: then `require` raises and no access is granted.
            with self._lock:
                self._has_writer_ended = True
                self._written.notify_all()

    def _open_chain(self) -> None:
        """Write the opening entries; if that fails, start all the same and refuse accesses."""
        try:
            self._dequeue(self._store.append(list(self._queue)))
            self._store.move_anchor()
        except OSError as error:
            self._store_failure(error)

    def _write_until_closed(self) -> None:
        while (batch := self._wait_for_batch()) is not None:
            try:
                if batch:
                    self._dequeue(self._store.append(batch))
                self._store.move_anchor()
                self._clear_failure()
                self._keep_up()
            except OSError as error:
                if not self._wait_to_retry(error):
                    return

    def _wait_for_batch(self) -> list[tuple[datetime, AuditEvent]] | None:
        """Wait for entries to write; None when the log closes and nothing is left to write.

        The list is empty if only the anchor is behind, or if upkeep is due.
        """
        with self._lock:
            self._changed.wait_for(
                lambda: self._has_unwritten or self._is_closing,
                max(0.0, self._upkeep_at_s - time.monotonic()),
            )
            if not self._has_unwritten:
                return None if self._is_closing else []
            self._changed.wait_for(
                lambda: self._is_flush_requested or self._is_closing, self._limits.gather_s
            )
            return list(itertools.islice(self._queue, self._limits.queue_size))

    def _keep_up(self) -> None:
        """Do the step of the upkeep that is due: state exports, remove the oldest, reserve space.

        Raises:
            OSError: the disk is full or failing.
        """
        if self._is_closing or time.monotonic() < self._upkeep_at_s:
            return
        now = self._utc_now()
        self._upkeep_at_s = time.monotonic() + self._limits.reserve_retry_s
        self._store.leave_exclusive_mode(now)
        self._store.record_export(now)
        has_more = self._store.remove_oldest(now) or self._extend_reserve()
        self._store.move_anchor()
        if has_more:
            self._upkeep_at_s = time.monotonic() + self._limits.reserve_pause_s

    def _extend_reserve(self) -> bool:
        """Reserve one more step; return whether there may be another one."""
        if not self._store.is_reserve_short:
            self._is_short_of_disk = False
            return False
        has_room = self._store.extend_reserve()
        if not has_room and not self._is_short_of_disk:
            _log.warning(
                "the disk has no room for the audit log's reserve",
                extra={
                    "reserved_entries": self._store.reserved,
                    "wanted_entries": self._limits.reserve_entries,
                },
            )
        self._is_short_of_disk = not has_room
        return has_room

    def _dequeue(self, count: int) -> None:
        with self._lock:
            for _ in range(count):
                self._queue.popleft()

    def _wait_to_retry(self, error: OSError) -> bool:
        """Store a failure and wait; False if the log closes, so that there is no retry."""
        with self._lock:
            self._store_failure(error)
            if self._is_closing:
                return False
            self._changed.wait_for(lambda: self._is_closing, self._limits.retry_s)
            return True

    def _store_failure(self, error: OSError) -> None:
        reason = error.strerror or str(error)
        if self._failure is None:
            _log.error("the audit log cannot be written", extra={"error": reason})
        self._failure = reason

    def _clear_failure(self) -> None:
        with self._lock:
            if self._failure is not None:
                _log.warning("the audit log can be written again")
            self._failure = None
            self._is_flush_requested = self._is_flush_requested and self._has_unwritten
            self._written.notify_all()
