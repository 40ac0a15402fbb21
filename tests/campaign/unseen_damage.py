"""How much of the damage to compressed pictures is noticed: refused, harmless, or read wrongly.

A real radiograph is compressed in every way that is read, and its compressed data damaged as disks
and networks do. What is read and differs visibly is damage that nobody was told of.

    python -m tests.campaign.unseen_damage --count 200
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

# The picture counts as read wrongly where this share of it is off by more than so many grey levels.
VISIBLE_SHARE, VISIBLE_LEVELS = 0.01, 8
OUTCOMES = ("refused", "harmless", "wrong")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print how many of each kind of file and damage were refused, harmless and read wrongly."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="files of each kind and damage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("kinds", nargs="*", help="kinds of files; all compressed ones if none")
    options = parser.parse_args(arguments)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Native decoders print what they think.
    files = damaged.make_compressed_files()
    for name in options.kinds or files:
        for damage in damaged.DAMAGES:
            found = looked_at(files[name], damage, options.count, options.seed)
            print(f"{name:18}{damage:16}" + "".join(f"{w} {found[w]:<8}" for w in OUTCOMES))
    return 0


def looked_at(sound: bytes, damage: str, count: int, seed: int) -> Counter[str]:
    """What became of `count` damaged copies of a file, by outcome."""
    dice = random.Random(seed)
    whole = read_study(sound)[0].pixels.astype(np.int16)
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        try:
            seen = read_study(damaged.apply_damage(sound, damage, dice))[0].pixels
        except StudyImageRefused:
            outcomes["refused"] += 1
            continue
        off = np.abs(seen - whole) > VISIBLE_LEVELS if seen.shape == whole.shape else np.True_
        outcomes["wrong" if off.mean() > VISIBLE_SHARE else "harmless"] += 1
    return outcomes


if __name__ == "__main__":
    raise SystemExit(main())
