"""Send ten times a real agent's capacity over both transports: correct results, or refusals.

First its capacity is measured, with as many callers as keep it busy. Then requests come ten times
as fast, whether or not the earlier ones have been answered, a fifth of them `stat`. Each must be
answered correctly, or refused at once as overloaded (RESOURCE_EXHAUSTED, 503) with a retry delay;
none may be lost. `stat` must not wait as long as `routine`, memory must stay bounded, and
afterwards the agent must be as before.

    python -m tests.campaign.overload --minutes 1

The callers share the agent's cores: if they cannot send ten times what the fastest engine does,
choose a slower one.

    python -m tests.campaign.overload --variant onnxruntime-fp32
"""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import grpc
import httpx

from tests.support.agents.live import live_agent
from tests.support.images.known import (
    AgentClient,
    DetectedFindings,
    RequestFailed,
    are_equal,
    connect_client,
    make_sound_files,
)
from tests.support.system.processes import ProcessSampler

TIMES: Final = 10.0
STAT: Final = 0.2
BUSY: Final = 8
"""Callers that keep the agent busy while its capacity is measured."""
SHORT_OF_CORES: Final = {
    "HILUM_EDGE__DECODE__WORKERS": "1",
    "HILUM_EDGE__ENGINE__THREADS": "1",
}
"""The callers run on this machine too: one core is theirs."""
MEMORY_GROWS_AT_MOST: Final = 1.5
"""Beyond what it was with as many callers as the agent can answer."""


@dataclass
class Tally:
    """Outcomes of the requests, and their durations in seconds by outcome."""

    capacity: float = 0.0
    offered: float = 0.0
    ends: Counter[str] = field(default_factory=Counter)
    took: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    wrong: list[str] = field(default_factory=list)
    sent: int = 0
    memory_mb: tuple[float, float, float] = (0, 0, 0)
    """Idle, peak at capacity, peak in the overload."""

    def time(self, end: str, share: float) -> float:
        """Return a quantile of an outcome's durations in seconds; 0 if there were none."""
        took = sorted(self.took[end])
        return took[min(len(took) - 1, int(share * len(took)))] if took else 0.0

    def problems(self) -> list[str]:
        """Return what was wrong with the run as a whole."""
        found = []
        if self.ends.total() != self.sent:
            found.append(f"{self.sent} requests were sent and {self.ends.total()} ended")
        if self.time("stat", 0.95) > self.time("routine", 0.5):
            found.append("95 % of stat were not faster than half of routine")
        if self.time("refused", 0.95) > self.time("routine", 0.5):
            found.append("refused requests waited as long as answered ones")
        idle, busy, most = self.memory_mb
        if most > MEMORY_GROWS_AT_MOST * busy:
            found.append(f"memory went from {idle:.0f}, busy {busy:.0f}, to {most:.0f} MB")
        return found


class Callers:
    """The callers of one agent; all send one image, whose findings are known."""

    def __init__(
        self, clients: list[AgentClient], image: bytes, expected: DetectedFindings, tally: Tally
    ) -> None:
        self._clients = clients
        self._image = image
        self._expected = expected
        self._tally = tally

    async def one(self, number: int, *, stat: bool) -> None:
        """Send one request; even numbers over gRPC, odd ones over HTTP."""
        client = self._clients[number % len(self._clients)]
        ask = client.detect_over_http_cheaply if number % 2 else client.detect_over_grpc
        start = time.perf_counter()
        try:
            answer = await ask(self._image, stat=stat, name=f"{number}")
        except RequestFailed as failed:
            end = "refused"
            refused = failed.status in {"RESOURCE_EXHAUSTED", "503"}
            if not (refused and failed.code == "overloaded" and failed.retry_after_s):
                self._tally.wrong.append(f"{number} failed: {failed!r}")
        except (grpc.RpcError, httpx.HTTPError, AssertionError) as error:
            end = "lost"
            self._tally.wrong.append(f"{number} was lost: {error!r}")
        else:
            end = "stat" if stat else "routine"
            if not are_equal(answer, self._expected):
                self._tally.wrong.append(f"{number} was answered with {answer}")
        self._tally.ends[end] += 1
        self._tally.took[end].append(time.perf_counter() - start)

    async def capacity(self, seconds: float) -> float:
        """Return the requests per second that the agent answers for callers without pauses."""
        ends_at = time.perf_counter() + seconds
        done = 0

        async def caller(number: int) -> None:
            nonlocal done
            while time.perf_counter() < ends_at:
                await self.one(number, stat=False)
                done += 1

        await asyncio.gather(*map(caller, range(BUSY)))
        return done / seconds

    async def flood(self, rate: float, seconds: float, chance: random.Random) -> int:
        """Send at a fixed rate; return the number of requests once all have ended."""
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(int(rate * seconds)):
                due = started + number / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(self.one(number, stat=chance.random() < STAT))
            self._tally.offered = (number + 1) / (time.perf_counter() - started)
        return number + 1


async def campaign(
    *, seconds: float, measure_s: float = 10.0, seed: int = 0, variant: str = "auto"
) -> Tally:
    """Run the campaign; `wrong` and `problems()` of the returned tally must be empty."""
    tally = Tally()
    image = make_sound_files()["jpeg-half"]
    environment = SHORT_OF_CORES | {"HILUM_EDGE__ENGINE__VARIANT": variant}
    with live_agent(environment=environment) as agent:
        async with connect_client(agent) as one, connect_client(agent) as other:
            expected = await one.detect_over_grpc(image)
            sampler = ProcessSampler(agent.process.pid, io.StringIO())
            idle = sampler.take_sample().all_kb / 1e3
            sampling = asyncio.create_task(_sample(sampler))
            measured = Tally()
            callers = Callers([one, one, other, other], image, expected, measured)
            tally.capacity = await callers.capacity(measure_s)
            busy = max(it.all_kb for it in sampler.samples) / 1e3
            sampler.samples.clear()
            sampler.take_sample()
            callers = Callers([one, one, other, other], image, expected, tally)
            rate = TIMES * tally.capacity
            tally.sent = await callers.flood(rate, seconds, random.Random(seed))
            tally.memory_mb = idle, busy, max(it.all_kb for it in sampler.samples) / 1e3
            sampling.cancel()
            await asyncio.wait({sampling})
            tally.wrong += measured.wrong
            for ask in (one.detect_over_grpc, one.detect_over_http):
                if not are_equal(await ask(image), expected):
                    tally.wrong.append("afterwards a radiograph got a wrong result")
        if agent.stop() != 0:
            tally.wrong.append("the agent did not exit with 0 when stopped")
    return tally


async def _sample(sampler: ProcessSampler) -> None:
    while True:
        sampler.take_sample()
        await asyncio.sleep(0.5)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the long campaign and print its result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", default="auto", help="of the starter's engines")
    arguments = parser.parse_args(argv)
    tally = asyncio.run(
        campaign(seconds=arguments.minutes * 60, seed=arguments.seed, variant=arguments.variant)
    )
    problems = tally.wrong + tally.problems()
    times = "; ".join(
        f"{end} {statistics.median(took) * 1e3:.0f} and {tally.time(end, 0.95) * 1e3:.0f}"
        for end, took in sorted(tally.took.items())
    )
    idle, busy, most = tally.memory_mb
    print(
        f"overload: capacity {tally.capacity:.1f} requests/s, offered {tally.offered:.1f} "
        f"({tally.offered / tally.capacity:.1f} times); "
        f"{tally.sent} sent: {dict(tally.ends)}; wrong: {len(problems)}\n"
        f"  ms, median and 95 %: {times}\n"
        f"  memory {idle:.0f} MB idle, at most {busy:.0f} at capacity, {most:.0f} in the overload"
    )
    for line in problems[:20]:
        print(" ", line)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
