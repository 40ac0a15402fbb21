"""Cut and damaged study images by the thousand: a radiograph or a coded refusal, never a crash.

Each kind of file runs in a process of its own with bounded memory, so that a decoder that crashes
is named and the others still run. The file at fault is left where the message says.

    python -m tests.campaign.hostile_images --count 20000
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from edge_agent.errors import StudyImageRefused
from edge_agent.imaging import read_study
from tests.support.images import damaged

MEMORY_BYTES = 8 << 30
SWALLOWED = 86


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; fail where anything but an answer came."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000, help="cuts and damages of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    spawn = multiprocessing.get_context("spawn")
    failed = []
    for name in damaged.make_small_files():
        child = spawn.Process(target=attack, args=(name, options.count, options.seed))
        child.start()
        child.join()
        if child.exitcode != 0:
            failed.append(name)
            print(f"{name}: exit code {child.exitcode}; the file is {_evidence(name)}")
    return 1 if failed else 0


def attack(name: str, count: int, seed: int) -> None:
    """Read every damaged form of one kind of file, at full size and fitted in turn."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.simplefilter("error")
    # Where a decoder's binding lets an error by, the picture is only half made.
    sys.unraisablehook = lambda _error: os._exit(SWALLOWED)
    # Native decoders print what they think of each file.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sound = damaged.make_small_files()[name]
    answers: Counter[str] = Counter()
    started, slowest = time.perf_counter(), 0.0
    for damage in (damaged.truncate, damaged.change_bytes):
        for number, data in enumerate(damage(sound, count, seed)):
            _evidence(name).write_bytes(data)
            begun = time.perf_counter()
            try:
                read_study(data, fit=damaged.FIT if number % 2 else None)
            except StudyImageRefused as refused:
                answers[refused.code] += 1
            else:
                answers["read"] += 1
            slowest = max(slowest, time.perf_counter() - begun)
    _evidence(name).unlink()
    seconds = time.perf_counter() - started
    print(f"{name}: {seconds:.0f} s, slowest {slowest:.2f} s, {dict(answers.most_common())}")


def _evidence(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"hilum-hostile-{name}.bin"


if __name__ == "__main__":
    raise SystemExit(main())
