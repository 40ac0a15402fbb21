"""Disks that are full: a limit on the size of this process's files, and small file systems."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def room_for(size_bytes: int) -> Iterator[None]:
    """Let no file of this process become larger than `size_bytes`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def small_disk(mount_point: Path, size_bytes: int, *, kind: str = "tmpfs") -> Iterator[Path]:
    """Mount a file system of this size; skip the test where this user may not.

    Args:
        mount_point: the folder, which is made if absent.
        size_bytes: the file system's size.
        kind: `tmpfs`, or `ext4` in a file beside the folder.

    Yields:
        The folder.
    """
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    mount_point.mkdir(parents=True, exist_ok=True)
    if kind == "ext4":
        image = mount_point.with_name(f"{mount_point.name}.img")
        with image.open("wb") as file:
            file.truncate(size_bytes)
        # No blocks are kept for root, who would otherwise find room on a full disk.
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True)
        command = ["mount", "-o", "loop", image, mount_point]
    else:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", mount_point]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", "--lazy", mount_point], check=True)


def fill_disk(folder: Path) -> Path:
    """Write a file until the folder's disk is full; return the file."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size_bytes in (1 << 16, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size_bytes))
    assert shutil.disk_usage(folder).free < 1 << 12
    return ballast
