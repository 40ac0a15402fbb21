"""Memory is read from the kernel's files, and a control group's limit counts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_agent.system import memory
from edge_agent.system.memory import available_memory_bytes, peak_memory_bytes

MIB = 1 << 20


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of control groups; this process is in the group `box/agent`."""
    (tmp_path / "meminfo").write_text("MemFree: 1 kB\nMemAvailable:  1048576 kB\n")
    (tmp_path / "cgroup").write_text("4:memory:/other\n0::/box/agent\n")
    (tmp_path / "groups/box/agent").mkdir(parents=True)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "groups")
    return tmp_path / "groups"


def limit(group: Path, most: str, used: int, cache: int = 0) -> None:
    (group / "memory.max").write_text(f"{most}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\nactive_file 7\n")


def test_the_available_memory_is_the_kernels_estimate() -> None:
    assert (available_memory_bytes() or 0) > 0


def test_the_smallest_room_of_all_control_groups_counts(cgroups: Path) -> None:
    assert available_memory_bytes() == 1 << 30
    limit(cgroups / "box/agent", "max", 100 * MIB)
    assert available_memory_bytes() == 1 << 30
    limit(cgroups / "box", str(700 * MIB), 300 * MIB, 50 * MIB)
    assert available_memory_bytes() == 450 * MIB
    limit(cgroups / "box/agent", str(200 * MIB), 190 * MIB)
    assert available_memory_bytes() == 10 * MIB
    limit(cgroups / "box/agent", str(200 * MIB), 210 * MIB)
    assert available_memory_bytes() == 0


def test_without_the_kernels_files_the_available_memory_is_not_known(
    tmp_path: Path, cgroups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "absent")
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "absent")
    assert available_memory_bytes() is None


def test_the_peak_of_a_process_is_read() -> None:
    before = peak_memory_bytes(os.getpid())
    filled = b"x" * (64 * MIB)
    assert peak_memory_bytes(os.getpid()) >= max(before, len(filled))
    assert peak_memory_bytes(2**22 + 1) == 0
