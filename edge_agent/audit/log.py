"""The audit log at work: every access is queued here and made durable by a thread of its own.

What is promised:

- `record` costs its caller some microseconds: it queues. The thread writes what has gathered
  within `gather_s`, fsyncs once for all of it (group commit), then moves the anchor. A power cut
  loses at most what was queued since; a clean stop loses nothing. `flush` waits for durability.
- An access that cannot be logged is refused: while the disk is full or failing, or too much is
  queued, `require` raises. What was queued before stays queued and is written when the disk
  recovers. See docs/decisions/0011-audit-log.md.
- Denials beyond a rate are counted in one entry, so that nobody can fill the disk unasked.
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
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from edge_agent.audit.writer import ChainWriter
from edge_agent.core.audit_chain import AuditEvent, DenialTokenBucket, Marker
from edge_agent.core.authorization import DenialReason
from edge_agent.errors import AuditUnavailable, ConfigInvalid

_log = logging.getLogger(__name__)
_REQUEST_DIGITS: Final = 32


@dataclass(frozen=True, slots=True)
class AuditLimits:
    """How the log is kept.

    Attributes:
        segment_bytes: a new segment is begun beyond this size.
        queue_size: with this many entries waiting, accesses are refused; denials and answers to
            what is under way are still taken, up to twice as many.
        gather_s: how long the first entry waits for others before it is written.
        retry_s: how long after a failure the disk is tried again.
        denials_burst: how many denials in a row are listed one by one.
        denials_per_s: how many are, in the long run.
    """

    segment_bytes: int = 16 << 20
    queue_size: int = 4096
    gather_s: float = 0.05
    retry_s: float = 1.0
    denials_burst: int = 100
    denials_per_s: float = 1.0


@dataclass(frozen=True, slots=True)
class AuditStatus:
    """How the log is doing. `failure` says why nothing can be written; None if all is well."""

    entries: int
    waiting: int
    lost: int
    failure: str | None


class AuditLog:
    """An audit log open for writing. All methods may be called from any thread."""

    def __init__(
        self,
        folder: Path,
        *,
        utc_now: Callable[[], datetime],
        monotonic_s: Callable[[], float] = time.monotonic,
        limits: AuditLimits | None = None,
    ) -> None:
        """Open the log in a folder, which is made if absent, and note that it was opened.

        Raises:
            ConfigInvalid: the folder cannot be used, or another process writes to it.
        """
        self._utc_now = utc_now
        self._monotonic_s = monotonic_s
        self._limits = limits or AuditLimits()
        self._denials = DenialTokenBucket(
            burst=self._limits.denials_burst, per_s=self._limits.denials_per_s
        )
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # The writer's thread waits for it.
        self._done = threading.Condition(self._lock)  # `flush` waits for it.
        self._waiting: deque[tuple[datetime, AuditEvent]] = deque()
        self._lost = self._lost_unlisted = 0
        self._failure: str | None = None
        self._hurry = self._closing = self._ended = False
        try:
            self._writer = ChainWriter(
                folder, segment_bytes=self._limits.segment_bytes, now=utc_now()
            )
        except OSError as error:
            raise ConfigInvalid(
                f"The audit log's folder {folder} cannot be used: {error.strerror}.",
                hint="Give a folder on a disk with room that the agent's user may write to.",
            ) from None
        self._thread = threading.Thread(target=self._run, name="audit-log", daemon=True)
        self._thread.start()

    def require(self) -> None:
        """Make sure that an access can be logged; to be called before it is granted.

        Raises:
            AuditUnavailable: it cannot.
        """
        if self._closing:
            raise AuditUnavailable("The audit log is closed.", hint="The agent is stopping.")
        if self._ended:
            raise AuditUnavailable("The audit log's writer has ended.", hint="Restart the agent.")
        if self._failure is not None:
            raise AuditUnavailable(f"The audit log cannot be written: {self._failure}.")
        if len(self._waiting) >= self._limits.queue_size:
            raise AuditUnavailable("The audit log's disk does not keep up.")

    def record(self, event: AuditEvent) -> None:
        """Queue an entry. Never fails: an access is over by the time that it is recorded."""
        now_s = self._monotonic_s()
        with self._lock:
            self._queue_unlisted_denials(now_s)
            if not isinstance(event.outcome, DenialReason) or self._denials.admit(now_s):
                self._queue(event)

    def request_digest(self, request_id: str) -> str:
        """What the log holds instead of a request's id: 32 hexadecimal digits.

        Callers may use accession numbers as ids, which are few enough to try them all. So the
        digest is keyed (HMAC-SHA-256), with a key that stays in this folder: who holds it and an
        id finds the entry, nobody finds the id from an entry. Without an id, it is random.
        """
        if not request_id:
            return secrets.token_hex(_REQUEST_DIGITS // 2)
        id_bytes = request_id.encode(errors="replace")
        digest = hmac.digest(self._writer.request_key, id_bytes, hashlib.sha256)
        return digest.hex()[:_REQUEST_DIGITS]

    @property
    def status(self) -> AuditStatus:
        """How the log is doing now."""
        entries = self._writer.link.count
        return AuditStatus(entries, len(self._waiting), self._lost, self._failure)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was queued is durable; False if it is not within the time.

        Blocks: call it off the event loop.
        """
        with self._lock:
            self._hurry = self._owes
            self._work.notify()
            self._done.wait_for(lambda: self._ended or not self._owes, timeout_s)
            return not self._owes

    def close(self, timeout_s: float | None = None) -> int:
        """Write what is queued, note that the log was closed, and let the folder go.

        Blocks, at most for the time: call it off the event loop, after the last access was
        recorded.

        Returns:
            How many entries could not be written because the disk is full or failing.
        """
        with self._lock:
            if self._closing:
                return len(self._waiting)
            self._queue_unlisted_denials(self._monotonic_s(), closing=True)
            self._queue(AuditEvent(Marker.CLOSED))
            self._closing = True
            self._work.notify()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            _log.error("the audit log's disk hangs: %d entries may be lost", len(self._waiting))
            return len(self._waiting)
        self._writer.close()
        link = self._writer.link
        _log.info("Audit log closed at entry %d, hash %s", link.count, link.hash)
        if self._waiting:
            _log.error("%d audit entries could not be written", len(self._waiting))
        return len(self._waiting)

    # With the lock held:

    def _queue_unlisted_denials(self, now_s: float, *, closing: bool = False) -> None:
        unlisted = self._denials.take_unlisted(now_s, closing=closing)
        if unlisted:
            self._queue(AuditEvent(Marker.DENIALS_UNLISTED, count=unlisted))

    def _queue(self, event: AuditEvent) -> None:
        if self._closing or len(self._waiting) >= 2 * self._limits.queue_size:
            self._lost += 1
            self._lost_unlisted += 1
            return
        utc = self._utc_now()
        if not self._waiting:
            self._work.notify()
        if self._lost_unlisted:
            marker = AuditEvent(Marker.ENTRIES_LOST, count=self._lost_unlisted)
            self._waiting.append((utc, marker))
            self._lost_unlisted = 0
        self._waiting.append((utc, event))

    @property
    def _owes(self) -> bool:
        return bool(self._waiting) or self._writer.anchor_is_behind

    # In the writer's thread:

    def _run(self) -> None:
        try:
            self._write_until_closed()
        finally:
            # Also where a mistake of ours ended it: then nothing more is granted.
            with self._lock:
                self._ended = True
                self._done.notify_all()

    def _write_until_closed(self) -> None:
        while (batch := self._gather()) is not None:
            try:
                if batch:
                    self._writer.append(batch)
                    self._forget(len(batch))
                self._writer.move_anchor()
            except OSError as error:
                if not self._wait_after(error):
                    return
            else:
                self._note_success()

    def _gather(self) -> list[tuple[datetime, AuditEvent]] | None:
        """Wait for something to write; None when the log closes and nothing is left.

        The list is empty where only the anchor is behind.
        """
        with self._lock:
            self._work.wait_for(lambda: self._owes or self._closing)
            if not self._owes:
                return None
            self._work.wait_for(lambda: self._hurry or self._closing, self._limits.gather_s)
            return list(itertools.islice(self._waiting, self._limits.queue_size))

    def _forget(self, count: int) -> None:
        with self._lock:
            for _ in range(count):
                self._waiting.popleft()

    def _wait_after(self, error: OSError) -> bool:
        """Note a failure and wait; False if the log closes, so that trying again is over."""
        why = error.strerror or str(error)
        with self._lock:
            if self._failure is None:
                _log.error("The audit log cannot be written: %s", why)
            self._failure = why
            if self._closing:
                return False
            self._work.wait_for(lambda: self._closing, self._limits.retry_s)
            return True

    def _note_success(self) -> None:
        with self._lock:
            if self._failure is not None:
                _log.warning("The audit log can be written again")
            self._failure = None
            self._hurry = self._hurry and self._owes
            self._done.notify_all()
