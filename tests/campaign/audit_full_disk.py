"""An hour on a full disk, under load: detections go on, the audit log is whole, others are told.

The audit log of a real agent is on a small ext4 file system. Once its space is reserved, another
program fills the disk, and tries to write more all the time. A few clients send a radiograph, one
after the other. Every few minutes the agent is stopped and started again, and the log is verified.
Each request must be answered, and each must have its entry in the log.

    python -m tests.campaign.audit_full_disk --minutes 60
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.audit.verify import verify
from tests.support.agents.audit_logs import read_entries
from tests.support.agents.live import LiveAgent, live_agent
from tests.support.images.known import RequestFailed, connect_client, make_sound_files
from tests.support.system.disks import fill_disk, small_disk


@dataclass
class Tally:
    """What happened."""

    answered: int = 0
    starts: int = 0
    refused_writes: int = 0
    successful_writes: int = 0
    verified: int = 0
    reserved_at_the_end: float = 0.0
    wrong: list[str] = field(default_factory=list)


def campaign(
    *,
    seconds: float,
    reserve_entries: int,
    restarts: int,
    disk_bytes: int,
    clients: int = 2,
    pause_s: float = 0.2,
    kind: str = "ext4",
) -> Tally:
    """Run an agent on a full disk; `wrong` of the returned tally must be empty.

    Args:
        seconds: the time under load, over all starts of the agent.
        reserve_entries: the agent's setting; more than there will be requests.
        restarts: how often the agent is stopped and started again.
        disk_bytes: the size of the file system.
        clients: the number of clients.
        pause_s: the pause between a client's requests.
        kind: the file system.
    """
    tally = Tally()
    with (
        tempfile.TemporaryDirectory() as work,
        small_disk(Path(work) / "disk", disk_bytes, kind=kind) as disk,
    ):
        environment = {
            # One box: with another box's identity its log would be set aside at each start.
            "HILUM_EDGE__STATE_DIR": str(Path(work) / "state"),
            "HILUM_EDGE__AUDIT__FOLDER": str(disk / "audit"),
            "HILUM_EDGE__AUDIT__RESERVE_ENTRIES": str(reserve_entries),
        }
        for start in range(restarts + 1):
            with live_agent(environment=environment) as agent:
                tally.starts += 1
                if start == 0:
                    _wait_for_reserve(agent, reserve_entries)
                    fill_disk(disk)
                with _other_writer(disk, tally):
                    load = _load(agent, seconds / (restarts + 1), clients, pause_s, tally)
                    asyncio.run(load)
                    _check_running(agent, disk / "audit", tally)
                    if agent.stop() != 0:
                        tally.wrong.append("the agent did not exit with 0 when stopped")
            _check_log(disk / "audit", tally)
    return tally


def _wait_for_reserve(agent: LiveAgent, reserve_entries: int) -> None:
    while agent.metrics()["hilum_audit_reserved_entries"] < reserve_entries - 700:
        time.sleep(0.1)


@contextmanager
def _other_writer(disk: Path, tally: Tally) -> Iterator[None]:
    """Try to write a page to the disk, again and again, as another program of the machine would."""
    is_over = threading.Event()

    def write() -> None:
        with (disk / "other").open("ab", buffering=0) as file:
            while not is_over.wait(0.02):
                try:
                    file.write(bytes(4096))
                    tally.successful_writes += 1
                except OSError as error:
                    tally.refused_writes += error.errno == errno.ENOSPC

    thread = threading.Thread(target=write, name="other writer")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


async def _load(
    agent: LiveAgent, seconds: float, clients: int, pause_s: float, tally: Tally
) -> None:
    image = make_sound_files()["jpeg-half"]
    ends_at = time.monotonic() + seconds
    async with connect_client(agent) as client:

        async def send(number: int) -> None:
            ask = client.detect_over_grpc if number % 2 else client.detect_over_http
            while time.monotonic() < ends_at:
                try:
                    if not await ask(image):
                        tally.wrong.append("a radiograph with masses was answered without findings")
                    tally.answered += 1
                except RequestFailed as failed:
                    tally.wrong.append(f"a request failed: {failed!r}")
                await asyncio.sleep(pause_s)

        await asyncio.gather(*map(send, range(clients)))


def _check_running(agent: LiveAgent, folder: Path, tally: Tally) -> None:
    metrics = agent.metrics()
    tally.reserved_at_the_end = metrics["hilum_audit_reserved_entries"]
    if metrics["hilum_audit_failing"] or metrics["hilum_audit_lost_entries_total"]:
        tally.wrong.append("the audit log failed, or lost entries")
    try:
        tally.verified += verify(folder).is_intact
    except OSError as error:
        # An agent that was started on a full disk keeps the log to itself.
        if "locked" not in str(error):
            tally.wrong.append(f"the log cannot be verified while the agent runs: {error}")


def _check_log(folder: Path, tally: Tally) -> None:
    verdict = verify(folder)
    tally.verified += verdict.is_intact
    if not verdict.is_intact:
        tally.wrong.append(verdict.describe())
    outcomes = Counter(
        entry["outcome"] for entry in read_entries(folder) if entry["action"] == "detect"
    )
    if outcomes != {"ok": tally.answered}:
        tally.wrong.append(f"{tally.answered} requests were answered, entries: {outcomes}")
    if shutil.disk_usage(folder).free > 64 << 10:
        tally.wrong.append("the disk was not full")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--reserve", type=int, default=60_000)
    chosen = parser.parse_args(arguments)
    tally = campaign(
        seconds=chosen.minutes * 60,
        reserve_entries=chosen.reserve,
        restarts=chosen.restarts,
        disk_bytes=128 << 20,
    )
    print(f"{tally.answered} requests answered in {tally.starts} runs of the agent")
    print(f"another program's pages: {tally.successful_writes}, {tally.refused_writes} refused")
    print(
        f"log intact {tally.verified} times, {tally.reserved_at_the_end:.0f} reserved entries left"
    )
    print(f"{len(tally.wrong)} wrong")
    print("\n".join(tally.wrong[:20]))
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
