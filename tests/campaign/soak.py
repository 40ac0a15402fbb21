"""A real agent under load for an hour: memory and open files must not grow.

A few clients send one radiograph in several encodings, without pause, over gRPC, over a stream and
over HTTP. Now and then a file is truncated, an image is rendered, a caller cancels, and once a
minute a decode worker is killed. The memory and the open files of all the agent's processes are
sampled every few seconds. After the warm-up neither may grow.

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
from tests.support.system.processes import ProcessSampler, Sample, growth_per_hour

WEIGHTS: Final = {"dicom": 3, "jpeg-2000": 1, "png": 2, "jpeg": 3, "jpeg-half": 6}
REFUSALS: Final = frozenset({"corrupt", "truncated", "not_an_image", "empty_file"})
"""Codes with which a truncated file may be refused."""
WARM_UP: Final = 0.25
"""Share of the run whose samples are ignored: allocators and caches fill up."""
MEMORY_GROWS_AT_MOST: Final = 0.03
"""Over the whole evaluated part, as a share of the memory at its beginning."""
FILES_GROW_AT_MOST: Final = 1.0


@dataclass
class Tally:
    """Outcomes of the requests, and samples of the processes."""

    ends: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    wrong: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    logged: Counter[str] = field(default_factory=Counter)

    @property
    def requests(self) -> int:
        """The number of requests."""
        return self.ends.total()


@dataclass(frozen=True)
class Flatness:
    """Growth after the warm-up. Memory in MB."""

    evaluated_s: float
    memory_mb: float
    memory_growth_mb: float
    main_growth_mb: float
    files_growth: float
    most_files: int
    most_memory_mb: float

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Flatness:
        """Compute the growth from the slope over the evaluated part."""
        evaluated = samples[int(len(samples) * WARM_UP) :]
        seconds = [it.seconds for it in evaluated]
        evaluated_s = seconds[-1] - seconds[0]

        def growth(values: list[int]) -> float:
            return growth_per_hour(seconds, values) * evaluated_s / 3600

        return cls(
            evaluated_s=evaluated_s,
            memory_mb=evaluated[0].all_kb / 1e3,
            memory_growth_mb=growth([it.all_kb for it in evaluated]) / 1e3,
            main_growth_mb=growth([it.main_kb for it in evaluated]) / 1e3,
            files_growth=growth([it.all_files for it in evaluated]),
            most_files=max(it.all_files for it in evaluated),
            most_memory_mb=max(it.all_kb for it in evaluated) / 1e3,
        )

    def problems(self) -> list[str]:
        """Return what grew."""
        found = []
        if self.memory_growth_mb > MEMORY_GROWS_AT_MOST * self.memory_mb:
            found.append(f"memory grew by {self.memory_growth_mb:.1f} MB of {self.memory_mb:.0f}")
        if self.files_growth > FILES_GROW_AT_MOST:
            found.append(f"open files grew by {self.files_growth:.1f}")
        return found


class Load:
    """One client's requests, one after the other."""

    def __init__(
        self, client: AgentClient, expected: dict[str, DetectedFindings], seed: int, tally: Tally
    ) -> None:
        self._client = client
        self._expected = expected
        self._chance = random.Random(seed)
        self._tally = tally
        self._names = list(WEIGHTS)

    async def one(self) -> None:
        """Send one image, or sometimes a stream of four."""
        name = self._chance.choices(self._names, list(WEIGHTS.values()))[0]
        image, fate = make_sound_files()[name], self._chance.random()
        if fate < 0.05:
            await self._truncated(image[: self._chance.randrange(len(image) // 2)])
        elif fate < 0.08:
            await self._cancel(image)
        elif fate < 0.10:
            await self._render(image)
        elif fate < 0.20:
            await self._stream()
        else:
            ask = self._client.detect_over_http if fate < 0.45 else self._client.detect_over_grpc
            try:
                self._check(name, await ask(image, stat=self._chance.random() < 0.2))
            except RequestFailed as failed:
                self._failed(failed)

    def _check(self, name: str, answer: DetectedFindings) -> None:
        self._tally.ends["answered"] += 1
        if not are_equal(answer, self._expected[name]):
            self._tally.wrong.append(f"{name} was answered with {answer}")

    def _failed(self, failed: RequestFailed) -> None:
        """Only a killed worker's image may fail."""
        self._tally.ends[failed.code or failed.status] += 1
        if failed.code != "decoder_failed":
            self._tally.wrong.append(f"a valid image failed: {failed!r}")

    async def _truncated(self, image: bytes) -> None:
        try:
            answer = await self._client.detect_over_grpc(image)
        except RequestFailed as failed:
            self._tally.ends["refused"] += 1
            if failed.code not in REFUSALS | {"decoder_failed"}:
                self._tally.wrong.append(f"half a file was answered with {failed!r}")
        else:
            self._tally.wrong.append(f"half a file was answered with {answer}")

    async def _cancel(self, image: bytes) -> None:
        self._tally.ends["cancelled"] += 1
        ask = self._chance.choice((self._client.detect_over_grpc, self._client.detect_over_http))
        with suppress(TimeoutError, asyncio.CancelledError, RequestFailed):
            async with asyncio.timeout(self._chance.uniform(0, 0.05)):
                await ask(image)

    async def _render(self, image: bytes) -> None:
        try:
            png = await self._client.render(image)
        except RequestFailed as failed:
            self._failed(failed)
        else:
            self._tally.ends["rendered"] += 1
            if not png.startswith(b"\x89PNG"):
                self._tally.wrong.append("the rendered image is no PNG")

    async def _stream(self) -> None:
        names = self._chance.choices(self._names, list(WEIGHTS.values()), k=4)
        answers = await self._client.detect_over_stream(
            [make_sound_files()[name] for name in names]
        )
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, RequestFailed):
                self._failed(answer)
            else:
                self._check(name, answer)


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
    """Run for a time or a number of requests; `wrong` of the returned tally must be empty."""
    tally = Tally()
    with live_agent() as agent:
        async with connect_client(agent) as agent_client:
            expected = {
                name: await agent_client.detect_over_grpc(file)
                for name, file in make_sound_files().items()
            }
            if not all(expected.values()):
                tally.wrong.append("a radiograph with masses was answered without findings")
            ends_at = None if seconds is None else time.monotonic() + seconds

            def is_over() -> bool:
                late = ends_at is not None and time.monotonic() >= ends_at
                return late or (requests is not None and tally.requests >= requests)

            async def client(number: int) -> None:
                load = Load(agent_client, expected, seed + number, tally)
                while not is_over():
                    await load.one()
                    await asyncio.sleep(pause_s)

            watching = asyncio.create_task(_watch(agent, table, tally, every_s, kill_every_s))
            await asyncio.gather(*map(client, range(clients)))
            watching.cancel()
            await asyncio.wait({watching})
        if not agent.alive or agent.stop() != 0:
            tally.wrong.append(
                "the agent did not run to the end, or did not exit with 0 when stopped"
            )
        tally.logged = agent.logged
    return tally


async def _watch(
    agent: LiveAgent, table: TextIO, tally: Tally, every_s: float, kill_every_s: float
) -> None:
    sampler = ProcessSampler(agent.process.pid, table)
    tally.samples = sampler.samples
    next_kill = time.monotonic() + kill_every_s
    while True:
        sampler.take_sample(tally.requests)
        await asyncio.sleep(every_s)
        if time.monotonic() >= next_kill:
            next_kill += kill_every_s
            tally.kills += agent.kill_worker(tally.kills)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the long campaign and print its result."""
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
        f"  after the warm-up, over {flat.evaluated_s / 60:.1f} min: memory "
        f"{flat.memory_mb:.0f} MB and {flat.memory_growth_mb:+.1f} MB "
        f"(the agent alone {flat.main_growth_mb:+.1f} MB), "
        f"at most {flat.most_memory_mb:.0f} MB; open files {flat.files_growth:+.1f}, at most "
        f"{flat.most_files}\n  every sample: {arguments.table}; log lines: {dict(tally.logged)}"
    )
    for line in problems[:20]:
        print(" ", line)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
