"""The power is cut at every sync of the audit log: no entry that was durable is lost.

A program writes accesses to an audit log under strace. It prints the number of each one when the
log says that it is durable. For each write, sync and rename of the log's files, the states that a
power cut may leave there are rebuilt, and in each of them the log is verified, opened as the agent
does at its start, and verified again.

    python -m tests.campaign.audit_power_cuts --accesses 60 --states 8
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from edge_agent.audit.log import AuditLimits, AuditLog
from edge_agent.audit.verify import verify
from tests.support.agents.audit_logs import read_entries
from tests.support.system.power_cuts import SimulatedDisk, record_calls

WRITES_ACCESSES = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from edge_agent.audit import database
from edge_agent.audit.log import AuditLimits, AuditLog
from edge_agent.audit.retention import ENTRY_BYTES, RetentionRules
from edge_agent.core.audit_chain import make_access_event
from edge_agent.core.authorization import Action, Principal, Role
database._PRAGMAS += (f"synchronous = {sys.argv[4]}",)
limits = AuditLimits(
    gather_s=0, reserve_entries=1400, reserve_pause_s=0, reserve_retry_s=0.01,
    retention=RetentionRules(None, int(sys.argv[3]) * ENTRY_BYTES),
)
who = Principal("key:0123456789", Role.CLINIC)
count = int(sys.argv[2])
for run in range(2):
    log = AuditLog(
        Path(sys.argv[1]), utc_now=lambda: datetime.now(UTC), box_id="ab" * 16, limits=limits
    )
    for number in range(run * count, (run + 1) * count):
        log.record(make_access_event(who, Action.DETECT, request=f"{number:08x}"))
        if log.flush(60):
            os.write(1, b"%d\\n" % number)
    log.close()
"""
SHORT = AuditLimits(gather_s=0, reserve_entries=0)
BOX = "ab" * 16


@dataclass
class Result:
    """What the campaign found."""

    calls: int = 0
    states: int = 0
    wrong: list[str] = field(default_factory=list)


def campaign(
    *,
    accesses: int,
    states: int,
    every: int = 1,
    kept: int = 10**6,
    seed: int = 0,
    synchronous: str = "FULL",
) -> Result:
    """Cut the power at calls of the recorded program.

    Args:
        accesses: the number of accesses in each of two runs of the program.
        states: the number of states for each cut, from nothing to everything that is not synced.
        every: cut at every n-th call only.
        kept: the number of entries beyond which the log removes the oldest.
        seed: of the random choices.
        synchronous: SQLite's setting; with another than the log's own, entries must get lost.
    """
    result = Result()
    with tempfile.TemporaryDirectory(dir=_memory_folder()) as name:
        work = Path(name)
        folder = work / "audit"
        program = ["-c", WRITES_ACCESSES, str(folder), str(accesses), str(kept), synchronous]
        calls = record_calls(program, folder, work / "trace")
        result.calls = len(calls)
        disk = SimulatedDisk(folder)
        for number, call in enumerate(calls):
            if number % every == 0:
                place = f"before call {number}, {call.name} {[path.name for path in call.paths]}"
                for state in range(states):
                    chance = random.Random(f"{seed} {number} {state}")
                    keep = state / max(1, states - 1)
                    problems = _check(disk, work / "cut", chance, keep)
                    result.wrong += [f"{place}, {keep:.2f} kept: {it}" for it in problems]
                    result.states += 1
            disk.apply(call)
    return result


def _check(disk: SimulatedDisk, target: Path, chance: random.Random, keep: float) -> list[str]:
    """Return what is wrong with one state that a power cut may leave now."""
    target.mkdir(mode=0o700)
    try:
        disk.survive(target, chance, keep)
        return _find_problems(target, {int(line) for line in disk.output.split()})
    finally:
        shutil.rmtree(target)


def _find_problems(folder: Path, durable: set[int]) -> list[str]:
    problems = []
    try:
        before = verify(folder, box_id=BOX if durable else "")
    except FileNotFoundError:
        problems += ["there is no log"] if durable else []
    else:
        if durable and not before.is_intact:
            problems.append(f"before the start: {before.describe()}")
    AuditLog(folder, utc_now=lambda: datetime.now(UTC), box_id=BOX, limits=SHORT).close()
    after = verify(folder, box_id=BOX)
    if not after.is_intact:
        problems.append(f"after the start: {after.describe()}")
    entries = read_entries(folder)
    kept = {int(entry["request"], 16) for entry in entries if entry["action"] == "detect"}
    first = min(kept, default=0)
    lost = {number for number in durable - kept if number >= first}
    if lost or (durable and not kept):
        problems.append(f"lost durable accesses {sorted(lost)}")
    bad = {"log_entries_missing", "log_damaged", "log_other_box"} & {e["action"] for e in entries}
    return problems + [f"the log says {sorted(bad)}"] * bool(bad)


def _memory_folder() -> str | None:
    """Return a folder in memory, where syncs take no time, if this machine has one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and print what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accesses", type=int, default=60)
    parser.add_argument("--states", type=int, default=8)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--kept", type=int, default=10**6)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    result = campaign(**vars(chosen))
    print(
        f"{result.calls} calls, {result.states} states after a power cut, {len(result.wrong)} wrong"
    )
    print("\n".join(result.wrong[:20]))
    return 1 if result.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
