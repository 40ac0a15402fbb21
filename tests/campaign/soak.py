"""A real agent process under load for an hour: memory and open files stay as they are.

A few clients ask without end, over gRPC, over a stream and over HTTP, for one radiograph in several
forms; now and then a file is damaged, a picture is asked for, a caller leaves early, and once a
minute a decode worker is killed. All processes of the agent are looked at every few seconds: how
much memory they hold together, how many files are open. After the warm-up neither may grow.

    python -m tests.campaign.soak --minutes 60
    python -m tests.campaign.soak --requests 20000
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

from tests.support.agents.live import LiveAgent, live_agent
from tests.support.images.known import (
    AgentClient,
    DetectedFindings,
    RequestFailed,
    are_equal,
    connect_client,
    make_sound_files,
)
from tests.support.system.processes import Sample, Watch, growth_per_hour

OFTEN: Final = {"dicom": 3, "jpeg-2000": 1, "png": 2, "jpeg": 3, "jpeg-half": 6}
REFUSALS: Final = frozenset({"corrupt", "truncated", "not_an_image", "empty_file"})
"""What a file that was cut off may be answered with."""
WARM_UP: Final = 0.25
"""Share of the run whose samples are not judged: allocators and caches fill up."""
MEMORY_GROWS_AT_MOST: Final = 0.03
"""Over the whole judged part, as a share of the memory at its beginning."""
FILES_GROW_AT_MOST: Final = 1.0


@dataclass
class Tally:
    """What came of the requests, and what was seen of the processes."""

    ends: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    wrong: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    logged: Counter[str] = field(default_factory=Counter)

    @property
    def requests(self) -> int:
        """How many were made."""
        return self.ends.total()


@dataclass(frozen=True)
class Flatness:
    """What the samples after the warm-up say. Memory in MB."""

    judged_s: float
    memory_mb: float
    memory_growth_mb: float
    main_growth_mb: float
    files_growth: float
    most_files: int
    most_memory_mb: float

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Flatness:
        """Growth is the slope's, over the judged part."""
        judged = samples[int(len(samples) * WARM_UP) :]
        seconds = [it.seconds for it in judged]
        judged_s = seconds[-1] - seconds[0]

        def growth(values: list[int]) -> float:
            return growth_per_hour(seconds, values) * judged_s / 3600

        return cls(
            judged_s=judged_s,
            memory_mb=judged[0].all_kb / 1e3,
            memory_growth_mb=growth([it.all_kb for it in judged]) / 1e3,
            main_growth_mb=growth([it.main_kb for it in judged]) / 1e3,
            files_growth=growth([it.all_files for it in judged]),
            most_files=max(it.all_files for it in judged),
            most_memory_mb=max(it.all_kb for it in judged) / 1e3,
        )

    def problems(self) -> list[str]:
        """What is not flat."""
        found = []
        if self.memory_growth_mb > MEMORY_GROWS_AT_MOST * self.memory_mb:
            found.append(f"memory grew by {self.memory_growth_mb:.1f} MB of {self.memory_mb:.0f}")
        if self.files_growth > FILES_GROW_AT_MOST:
            found.append(f"open files grew by {self.files_growth:.1f}")
        return found


class Load:
    """What the clients do, one request after the other."""

    def __init__(
        self, asker: AgentClient, expected: dict[str, DetectedFindings], seed: int, tally: Tally
    ) -> None:
        self._asker = asker
        self._expected = expected
        self._chance = random.Random(seed)
        self._tally = tally
        self._names = list(OFTEN)

    async def one(self) -> None:
        """One visit: mostly one image, sometimes a stream of four."""
        name = self._chance.choices(self._names, list(OFTEN.values()))[0]
        image, fate = make_sound_files()[name], self._chance.random()
        if fate < 0.05:
            await self._cut_short(image[: self._chance.randrange(len(image) // 2)])
        elif fate < 0.08:
            await self._leave_early(image)
        elif fate < 0.10:
            await self._draw(image)
        elif fate < 0.20:
            await self._stream()
        else:
            ask = self._asker.detect_over_http if fate < 0.45 else self._asker.detect_over_grpc
            try:
                self._judge(name, await ask(image, stat=self._chance.random() < 0.2))
            except RequestFailed as failed:
                self._failed(failed)

    def _judge(self, name: str, answer: DetectedFindings) -> None:
        self._tally.ends["answered"] += 1
        if not are_equal(answer, self._expected[name]):
            self._tally.wrong.append(f"{name} was answered with {answer}")

    def _failed(self, failed: RequestFailed) -> None:
        """Only a killed worker's image may fail."""
        self._tally.ends[failed.code or failed.status] += 1
        if failed.code != "decoder_failed":
            self._tally.wrong.append(f"a sound image failed: {failed!r}")

    async def _cut_short(self, image: bytes) -> None:
        try:
            answer = await self._asker.detect_over_grpc(image)
        except RequestFailed as failed:
            self._tally.ends["refused"] += 1
            if failed.code not in REFUSALS | {"decoder_failed"}:
                self._tally.wrong.append(f"half a file was answered with {failed!r}")
        else:
            self._tally.wrong.append(f"half a file was answered with {answer}")

    async def _leave_early(self, image: bytes) -> None:
        self._tally.ends["left early"] += 1
        ask = self._chance.choice((self._asker.detect_over_grpc, self._asker.detect_over_http))
        with suppress(TimeoutError, asyncio.CancelledError, RequestFailed):
            async with asyncio.timeout(self._chance.uniform(0, 0.05)):
                await ask(image)

    async def _draw(self, image: bytes) -> None:
        try:
            picture = await self._asker.render(image)
        except RequestFailed as failed:
            self._failed(failed)
        else:
            self._tally.ends["drawn"] += 1
            if not picture.startswith(b"\x89PNG"):
                self._tally.wrong.append("what was drawn is no PNG")

    async def _stream(self) -> None:
        names = self._chance.choices(self._names, list(OFTEN.values()), k=4)
        answers = await self._asker.detect_over_stream([make_sound_files()[name] for name in names])
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, RequestFailed):
                self._failed(answer)
            else:
                self._judge(name, answer)


async def campaign(
    *,
    table: TextIO,
    seconds: float | None = None,
    requests: int | None = None,
    clients: int = 2,
    pause_s: float = 0.0,
    every_s: float = 5.0,
    kill_every_s: float = 60.0,
    seed: int = 0,
) -> Tally:
    """Run it, for a time or a number of requests; `wrong` of what comes back must be empty."""
    tally = Tally()
    with live_agent() as agent:
        async with connect_client(agent) as asker:
            expected = {
                name: await asker.detect_over_grpc(it) for name, it in make_sound_files().items()
            }
            if not all(expected.values()):
                tally.wrong.append("a radiograph with masses was answered without findings")
            ends_at = None if seconds is None else time.monotonic() + seconds

            def over() -> bool:
                late = ends_at is not None and time.monotonic() >= ends_at
                return late or (requests is not None and tally.requests >= requests)

            async def client(number: int) -> None:
                load = Load(asker, expected, seed + number, tally)
                while not over():
                    await load.one()
                    await asyncio.sleep(pause_s)

            watching = asyncio.create_task(_watch(agent, table, tally, every_s, kill_every_s))
            await asyncio.gather(*map(client, range(clients)))
            watching.cancel()
            await asyncio.wait({watching})
        if not agent.alive or agent.stop() != 0:
            tally.wrong.append("the agent did not end by itself, and with 0, when told to")
        tally.logged = agent.logged
    return tally


async def _watch(
    agent: LiveAgent, table: TextIO, tally: Tally, every_s: float, kill_every_s: float
) -> None:
    watch = Watch(agent.process.pid, table)
    tally.samples = watch.samples
    next_kill = time.monotonic() + kill_every_s
    while True:
        watch.look(tally.requests)
        await asyncio.sleep(every_s)
        if time.monotonic() >= next_kill:
            next_kill += kill_every_s
            tally.kills += agent.kill_worker(tally.kills)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the long campaign and say what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    until = parser.add_mutually_exclusive_group()
    until.add_argument("--minutes", type=float, default=60.0)
    until.add_argument("--requests", type=int, help="until so many, however long that takes")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--pause-ms", type=float, default=0.0, help="of each client in between")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, default=Path("runs/soak.csv"), help="every sample")
    arguments = parser.parse_args(argv)
    arguments.table.parent.mkdir(parents=True, exist_ok=True)
    with arguments.table.open("w", encoding="ascii") as table:
        tally = asyncio.run(
            campaign(
                table=table,
                seconds=None if arguments.requests else arguments.minutes * 60,
                requests=arguments.requests,
                clients=arguments.clients,
                pause_s=arguments.pause_ms / 1e3,
                seed=arguments.seed,
            )
        )
    flat = Flatness.of(tally.samples)
    problems = tally.wrong + flat.problems()
    print(
        f"soak: {tally.requests} requests in {tally.samples[-1].seconds / 60:.1f} min: "
        f"{dict(tally.ends)}; workers killed: {tally.kills}; wrong: {len(problems)}\n"
        f"  after the warm-up, over {flat.judged_s / 60:.1f} min: memory {flat.memory_mb:.0f} MB "
        f"and {flat.memory_growth_mb:+.1f} MB (the agent alone {flat.main_growth_mb:+.1f} MB), "
        f"at most {flat.most_memory_mb:.0f} MB; open files {flat.files_growth:+.1f}, at most "
        f"{flat.most_files}\n  every sample: {arguments.table}; log lines: {dict(tally.logged)}"
    )
    for line in problems[:20]:
        print(" ", line)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
