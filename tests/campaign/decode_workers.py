"""Check that no response of a decode worker ever reaches another request.

Many clients at once send images that carry a tag as the position of one bright square. Some
requests are cancelled, some hang until their time-out, some crash their worker, and now and then a
worker, or all of them, are killed from outside. Every result must carry the tag of its request.

    python -m tests.campaign.decode_workers --requests 100000
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from edge_agent.decoding.pool import DecodePolicy, DecoderPool
from edge_agent.decoding.responses import DecodedStudy
from edge_agent.errors import DecoderFailed
from edge_agent.imaging import Limits
from tests.support.images.hostile_reader import PATH, make_hostile_file

SIDE, CELL = 256, 16
TAGS = (SIDE // CELL) ** 2
CRASHES = ("exit", "segfault", "kill", "hang", "bug", "send {}")
ROOT = Path(__file__).parents[2]


@dataclass
class Tally:
    """Counts of the requests' outcomes, and what was wrong."""

    ends: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


def tagged_image(tag: int) -> bytes:
    """Return a PNG with one bright square whose position is the tag."""
    pixels = np.full((SIDE, SIDE), 20, np.uint8)
    row, column = divmod(tag, SIDE // CELL)
    pixels[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = 250
    return cv2.imencode(".png", pixels)[1].tobytes()


def tag_of(pixels: np.ndarray) -> int | None:
    """Return the tag of a tagged image; None if it is another image."""
    cells = pixels.reshape(SIDE // CELL, CELL, SIDE // CELL, CELL).mean(axis=(1, 3))
    bright = np.flatnonzero(cells > 200)
    return int(bright[0]) if len(bright) == 1 else None


def tag_in(decoded: DecodedStudy) -> int | None:
    """Return the tag of a decoded image."""
    return tag_of(decoded.radiograph.pixels)


async def campaign(
    requests: int,
    *,
    clients: int = 64,
    workers: int = 2,
    seed: int = 0,
    kill_every: int = 97,
    kill_all_every: int = 25,
) -> Tally:
    """Run the campaign; `wrong` of the returned tally must be empty."""
    chance = random.Random(seed)
    images = [tagged_image(tag) for tag in range(TAGS)]
    tally = Tally()
    started = time.perf_counter()
    pool = DecoderPool(
        Limits(), DecodePolicy(workers=workers, timeout_s=5.0, grace_s=0.02), reader=PATH
    )
    await pool.start()
    numbers = iter(range(requests))

    async def client() -> None:
        for number in numbers:
            if number % kill_every == kill_every - 1:
                everything = (number // kill_every) % kill_all_every == kill_all_every - 1
                _kill_something(pool, chance, tally, everything=everything)
            tally.ends[await _one_request(pool, images, chance, tally)] += 1

    try:
        await asyncio.gather(*(client() for _ in range(clients)))
        # Whatever has happened, all workers are there and respond correctly afterwards.
        for tag in range(TAGS):
            decoded = await pool.decode(images[tag], fit=(SIDE, SIDE))
            if tag_in(decoded) != tag:
                tally.wrong.append(f"in the end {tag} was answered with {tag_in(decoded)}")
    finally:
        await pool.close()
    tally.seconds = time.perf_counter() - started
    return tally


async def _one_request(
    pool: DecoderPool, images: list[bytes], chance: random.Random, tally: Tally
) -> str:
    tag, fate = chance.randrange(TAGS), chance.random()
    data, timeout_s, patience_s = images[tag], 5.0, None
    if fate < 0.10:
        patience_s = chance.uniform(0.0, 0.05)
    elif fate < 0.15:
        data, timeout_s = make_hostile_file(f"sleep {chance.uniform(0, 0.02)}", data), 0.01
    elif fate < 0.20:
        data, patience_s = make_hostile_file(f"sleep {chance.uniform(0, 0.05)}", data), 0.02
    elif fate < 0.24:
        data, timeout_s = make_hostile_file(chance.choice(CRASHES), data), 0.1
    task = asyncio.create_task(pool.decode(data, fit=(SIDE, SIDE), timeout_s=timeout_s))
    if patience_s is not None:
        asyncio.get_running_loop().call_later(patience_s, task.cancel)
    await asyncio.wait([task])
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    if error is None:
        if tag_in(task.result()) != tag:
            tally.wrong.append(f"{tag} was answered with {tag_in(task.result())}")
        return "answered"
    if not isinstance(error, DecoderFailed):
        tally.wrong.append(f"{tag} failed with {error!r}")
    return "failed"


def _kill_something(
    pool: DecoderPool, chance: random.Random, tally: Tally, *, everything: bool
) -> None:
    stats = pool.stats()
    pid = stats.zygote_pid if everything else chance.choice(stats.pids or (None,))
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            tally.kills["all" if everything else "one"] += 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the long campaign and print its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    # The workers import the hostile reader; they start with a path of their own.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )
    tally = asyncio.run(campaign(arguments.requests, seed=arguments.seed))
    print(
        f"decode workers: {arguments.requests} requests in {tally.seconds:.0f} s: "
        f"{dict(tally.ends)}; killed from outside: {dict(tally.kills)}; wrong: {len(tally.wrong)}"
    )
    for line in tally.wrong[:20]:
        print(" ", line)
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
