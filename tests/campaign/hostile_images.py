"""Read truncated and damaged study images: each gives a radiograph or a coded refusal, no crash.

Each kind of file is read in a separate process with bounded memory, so that a crash is reported
with its kind and the others still run. The message names the file that caused it.

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
    """Run the campaign; fail if a process crashed."""
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
    """Read all damaged files of one kind, at full size and fitted in turn."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.simplefilter("error")
    # If a decoder's binding ignores an error, the image is incomplete.
    sys.unraisablehook = lambda _error: os._exit(SWALLOWED)
    # Native decoders print messages about each file.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    intact = damaged.make_small_files()[name]
    outcomes: Counter[str] = Counter()
    started, slowest = time.perf_counter(), 0.0
    for damage in (damaged.truncate, damaged.change_bytes):
        for number, data in enumerate(damage(intact, count, seed)):
            _evidence(name).write_bytes(data)
            start = time.perf_counter()
            try:
                read_study(data, fit=damaged.FIT if number % 2 else None)
            except StudyImageRefused as refused:
                outcomes[refused.code] += 1
            else:
                outcomes["read"] += 1
            slowest = max(slowest, time.perf_counter() - start)
    _evidence(name).unlink()
    seconds = time.perf_counter() - started
    print(f"{name}: {seconds:.0f} s, slowest {slowest:.2f} s, {dict(outcomes.most_common())}")


def _evidence(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"hilum-hostile-{name}.bin"


if __name__ == "__main__":
    raise SystemExit(main())
