"""Count how damage to compressed images ends: refused, harmless, or decoded wrongly.

A real radiograph is compressed in every way that is read, and its compressed data are damaged as
by disks and networks. A file that is decoded and differs visibly is unreported damage.

    python -m tests.campaign.undecoded_damage --count 200
"""

from __future__ import annotations

import argparse
import os
import random
from collections import Counter
from collections.abc import Sequence

import numpy as np

from edge_agent.errors import StudyImageRefused
from edge_agent.imaging import read_study
from tests.support.images import damaged

# An image is decoded wrongly if this share of it differs by more than so many grey levels.
VISIBLE_SHARE, VISIBLE_LEVELS = 0.01, 8
OUTCOMES = ("refused", "harmless", "wrong")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the counts of refused, harmless and wrong files by kind of file and damage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="files of each kind and damage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("kinds", nargs="*", help="kinds of files; all compressed ones if none")
    options = parser.parse_args(arguments)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Native decoders print messages.
    files = damaged.make_compressed_files()
    for name in options.kinds or files:
        for damage in damaged.DAMAGES:
            found = count_outcomes(files[name], damage, options.count, options.seed)
            print(f"{name:18}{damage:16}" + "".join(f"{w} {found[w]:<8}" for w in OUTCOMES))
    return 0


def count_outcomes(intact: bytes, damage: str, count: int, seed: int) -> Counter[str]:
    """Return the outcomes of `count` damaged copies of a file."""
    dice = random.Random(seed)
    expected = read_study(intact)[0].pixels.astype(np.int16)
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        try:
            decoded = read_study(damaged.apply_damage(intact, damage, dice))[0].pixels
        except StudyImageRefused:
            outcomes["refused"] += 1
            continue
        off = (
            np.abs(decoded - expected) > VISIBLE_LEVELS
            if decoded.shape == expected.shape
            else np.True_
        )
        outcomes["wrong" if off.mean() > VISIBLE_SHARE else "harmless"] += 1
    return outcomes


if __name__ == "__main__":
    raise SystemExit(main())
