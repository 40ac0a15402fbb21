"""Check that no decoded image contains memory that no decoder wrote to, such as another image.

The same damaged files are read by processes whose allocator fills new memory with different bytes
(glibc's MALLOC_PERTURB_): the decoded pixels must be the same.

    python -m tests.campaign.unwritten_memory --count 1500
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from edge_agent.errors import StudyImageRefused
from edge_agent.imaging import read_study
from tests.support.images import damaged

FILLINGS = (1, 77, 200)
PER_LARGE = 25  # Number of small files for each large one.


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the files under each filling; fail if two results differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1500, help="cuts and damages of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--read", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.read:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Native decoders print messages.
        print("new memory holds", np.empty(1 << 20, np.uint8)[-1])
        for name, data, fit in damaged_files(options.count, options.seed):
            print(name, _digest(data, fit))
        return 0
    lists = [_read_with_filling(filling, options.count, options.seed) for filling in FILLINGS]
    if len({lines.pop(0) for lines in lists}) < len(FILLINGS):
        print("This machine's allocator does not fill new memory: nothing can be checked.")
        return 1
    differing = [lines for lines in zip(*lists, strict=True) if len(set(lines)) > 1]
    read = sum(not line.endswith(" refused") for line in lists[0])
    print(f"{len(lists[0])} files, {read} read; {len(differing)} differ by what memory held before")
    for lines in differing[:20]:
        print(*lines, sep=" | ")
    return 1 if differing or not read else 0


def damaged_files(count: int, seed: int) -> Iterator[tuple[str, bytes, tuple[int, int] | None]]:
    """Yield name, bytes and requested size, for every kind of file and damage."""
    fits = (None, damaged.FIT)
    for name, intact in damaged.make_small_files().items():
        for damage in (damaged.truncate, damaged.change_bytes):
            for number, data in enumerate(damage(intact, count, seed)):
                yield f"{name} {damage.__name__} {number}", data, fits[number % 2]
    dice = random.Random(seed)
    for name, intact in damaged.make_compressed_files().items():
        for kind in damaged.DAMAGES:
            for number in range(-(-count // PER_LARGE)):
                data = damaged.apply_damage(intact, kind, dice)
                yield f"{name} {kind} {number}", data, fits[number % 2]


def _read_with_filling(filling: int, count: int, seed: int) -> list[str]:
    command = [sys.executable, "-m", "tests.campaign.unwritten_memory", "--read"]
    command += ["--count", str(count), "--seed", str(seed)]
    filled = {**os.environ, "MALLOC_PERTURB_": str(filling)}
    done = subprocess.run(command, env=filled, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def _digest(data: bytes, fit: tuple[int, int] | None) -> str:
    try:
        radiograph, _ = read_study(data, fit=fit)
    except StudyImageRefused:
        return "refused"
    return hashlib.sha256(radiograph.pixels.tobytes()).hexdigest()[:16]


if __name__ == "__main__":
    raise SystemExit(main())
