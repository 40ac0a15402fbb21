"""Check that no result ever reaches another request, through the whole agent and both transports.

64 clients at once send images that carry a tag as the place of one bright square; some over gRPC,
some over a stream, some over HTTP. Requests are cancelled and run out of time at random, files are
damaged, decode workers are killed from outside, now and then all of them. Every result must carry
its own request's tag and id.

    python -m tests.campaign.identity --requests 100000
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import cv2
import grpc
import httpx

from edge_agent.app.agent import Agent
from edge_agent.decoding.decoder import SandboxedDecoder
from hilum.v1 import detection_pb2 as pb
from hilum.v1 import detection_pb2_grpc
from tests.support.agents.tagged import (
    SIDE,
    eventually,
    fake_pipeline,
    hilum_error,
    in_flight,
    settings,
)
from tests.support.engines.fake_engine import FakeEngine, paint

CELL = 8
ACROSS = SIDE // CELL
TAGS = ACROSS**2


@dataclass
class Tally:
    """Counts of the requests' outcomes, and what was wrong."""

    ends: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


def tagged_image(tag: int) -> bytes:
    """Return a PNG with one bright square whose position is the tag."""
    row, column = divmod(tag, ACROSS)
    square = (column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL)
    return cv2.imencode(".png", paint(SIDE, SIDE, 200, square))[1].tobytes()


def tag_at(x_min: float, y_min: float) -> int:
    """Return the tag whose square is at this position in pixels."""
    return round(y_min / CELL) * ACROSS + round(x_min / CELL)


class Campaign:
    """The requests and faults that one agent is exposed to."""

    may_fail = frozenset({"decoder_failed", "overloaded", "deadline_exceeded", "not_ready"})
    """Codes of errors that intact files may get."""

    def __init__(self, agent: Agent, chance: random.Random, tally: Tally) -> None:
        self.agent = agent
        self.chance = chance
        self.tally = tally
        self._images = [tagged_image(tag) for tag in range(TAGS)]

    def request(self, number: int) -> tuple[int, pb.DetectRequest, bool]:
        """Return a tag, a request for it, and whether its file is intact."""
        tag = self.chance.randrange(TAGS)
        image, intact = self._images[tag], self.chance.random() > 0.05
        if not intact:
            image = image[: self.chance.randrange(len(image) // 2)]
        urgent = self.chance.random() < 0.2
        options = pb.DetectOptions(priority=pb.PRIORITY_STAT if urgent else pb.PRIORITY_ROUTINE)
        return tag, pb.DetectRequest(request_id=f"{number}", image=image, options=options), intact

    def draw_timeouts(self) -> tuple[float | None, float]:
        """Draw the time after which the caller cancels (None: never), and its deadline."""
        fate = self.chance.random()
        if fate < 0.15:
            return self.chance.uniform(0, 0.2), 60
        if fate < 0.25:
            return None, self.chance.uniform(0.005, 0.1)
        return None, 60

    def check_response(
        self, tag: int, request: pb.DetectRequest, response: pb.DetectResponse
    ) -> None:
        """Check that a response belongs to its request."""
        boxes = [tag_at(it.box.x_min, it.box.y_min) for it in response.findings]
        self.count("answered", boxes == [tag] and response.request_id == request.request_id, tag)

    def check_failure(self, code: str, intact: bool, tag: int) -> None:
        """Check that a failure is an expected one."""
        self.count(code, code in self.may_fail or not intact, tag)

    def count(self, end: str, is_correct: bool, tag: int) -> None:
        """Count an outcome."""
        self.tally.ends[end] += 1
        if not is_correct:
            self.tally.wrong.append(f"{tag}: {end}")

    def kill(self, *, everything: bool) -> None:
        """Kill a decode worker, or the zygote that all are forked from."""
        decoder = self.agent._decoder
        assert isinstance(decoder, SandboxedDecoder)
        stats = decoder.stats()
        pid = stats.zygote_pid if everything else self.chance.choice(stats.pids or (None,))
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.tally.kills["all" if everything else "one"] += 1

    async def by_call(self, stub: Any, number: int) -> None:
        """Send one image in one gRPC call."""
        tag, request, intact = self.request(number)
        cancel_after_s, deadline_s = self.draw_timeouts()
        call = stub.Detect(request, timeout=deadline_s)
        if cancel_after_s is not None:
            asyncio.get_running_loop().call_later(cancel_after_s, call.cancel)
        try:
            self.check_response(tag, request, await call)
        except asyncio.CancelledError:
            # gRPC for Python reports a call whose deadline passed at the agent first as cancelled.
            self.count("cancelled", cancel_after_s is not None or deadline_s < 1, tag)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self.count("deadline_exceeded", is_correct=True, tag=tag)
            else:
                self.check_failure(hilum_error(error).code, intact, tag)

    async def by_stream(self, stub: Any, numbers: Sequence[int]) -> None:
        """Send several images over one stream, which may be dropped halfway."""
        asked = {f"{number}": self.request(number) for number in numbers}
        sent = [request for _, request, _ in asked.values()]
        cancel_after_s = self.chance.uniform(0, 0.3) if self.chance.random() < 0.2 else None

        async def requests() -> AsyncIterator[pb.DetectRequest]:
            for request in sent:
                yield request

        call = stub.DetectStream(requests(), timeout=60)
        if cancel_after_s is not None:
            asyncio.get_running_loop().call_later(cancel_after_s, call.cancel)
        try:
            async for outcome in call:
                tag, request, intact = asked.pop(outcome.request_id)
                if outcome.WhichOneof("outcome") == "response":
                    self.check_response(tag, request, outcome.response)
                else:
                    self.check_failure(outcome.error.code, intact, tag)
        except asyncio.CancelledError:
            pass
        for tag, _, _ in asked.values():
            self.count("dropped", cancel_after_s is not None, tag)

    async def by_http(self, http: httpx.AsyncClient, number: int) -> None:
        """Send one image over HTTP."""
        tag, request, intact = self.request(number)
        cancel_after_s, deadline_s = self.draw_timeouts()
        form = {"request_id": request.request_id, "timeout_s": f"{deadline_s}"}
        asked = asyncio.ensure_future(
            http.post("/predict", files={"file": ("x", request.image)}, data=form)
        )
        if cancel_after_s is not None:
            asyncio.get_running_loop().call_later(cancel_after_s, asked.cancel)
        await asyncio.wait([asked])
        if asked.cancelled():
            self.count("disconnected", cancel_after_s is not None, tag)
            return
        body = asked.result().json()
        if "error" in body:
            self.check_failure(body["error"]["code"], intact, tag)
            return
        self.check_body(tag, request, body)

    def check_body(self, tag: int, request: pb.DetectRequest, body: dict[str, Any]) -> None:
        """Check that a response over HTTP belongs to its request."""
        boxes = [tag_at(it["box"]["x_min"], it["box"]["y_min"]) for it in body["predictions"]]
        is_correct = boxes == [tag] and body["request_id"] == request.request_id
        self.count("answered", is_correct, tag)


async def campaign(
    requests: int,
    *,
    clients: int = 64,
    seed: int = 0,
    kill_every: int = 97,
    kill_all_every: int = 25,
) -> Tally:
    """Run the campaign; `wrong` of the returned tally must be empty."""
    tally, chance = Tally(), random.Random(seed)
    configuration = settings(
        http={"enabled": True}, decode={"workers": 2}, limits={"queue_size": clients // 2}
    )

    def load(settings: Any, decoder: Any) -> Any:
        engine = FakeEngine(SIDE, SIDE, before=lambda _batch: time.sleep(0.001))
        return fake_pipeline(settings, decoder, engine, infer_concurrency=2, max_batch=3)

    agent = Agent(configuration, load)
    started = time.perf_counter()
    await agent.start()
    try:
        await agent.load()
        run = Campaign(agent, chance, tally)
        numbers = _number_requests(run, requests, kill_every, kill_all_every)
        await run_clients(run, numbers, clients)
        pipeline = agent.detection
        assert pipeline
        await eventually(lambda: in_flight(pipeline) == 0)
        # Whatever has happened, all tags are answered correctly afterwards.
        await _each_once(run)
    finally:
        if not await agent.stop():
            tally.wrong.append("the agent did not stop")
    tally.seconds = time.perf_counter() - started
    return tally


def _number_requests(
    run: Campaign, requests: int, kill_every: int, kill_all_every: int
) -> Iterator[int]:
    """Yield the requests' numbers, and kill a process whenever one is due."""
    for number in range(requests):
        if number % kill_every == kill_every - 1:
            kills = number // kill_every
            run.kill(everything=kills % kill_all_every == kill_all_every - 1)
        yield number


async def run_clients(run: Campaign, numbers: Iterator[int], clients: int) -> None:
    """Send the numbered requests with this many clients at once."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=run.agent.page, timeout=120)
        )

        async def client(index: int) -> None:
            async with grpc.aio.insecure_channel(run.agent.address) as channel:
                stub = detection_pb2_grpc.DetectorStub(channel)
                for number in numbers:
                    if index % 4 == 1:
                        await run.by_http(http, number)
                    elif index % 8 == 2:
                        await run.by_stream(stub, [number, *islice(numbers, 5)])
                    else:
                        await run.by_call(stub, number)

        await asyncio.gather(*map(client, range(clients)))


async def _each_once(run: Campaign) -> None:
    async with grpc.aio.insecure_channel(run.agent.address) as channel:
        stub = detection_pb2_grpc.DetectorStub(channel)
        for tag in range(TAGS):
            request = pb.DetectRequest(request_id=f"end {tag}", image=tagged_image(tag))
            run.check_response(tag, request, await stub.Detect(request, timeout=60))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the long campaign and print its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    tally = asyncio.run(campaign(arguments.requests, seed=arguments.seed))
    print(
        f"identity: {arguments.requests} requests in {tally.seconds:.0f} s: {dict(tally.ends)}; "
        f"killed from outside: {dict(tally.kills)}; wrong: {len(tally.wrong)}"
    )
    for line in tally.wrong[:20]:
        print(" ", line)
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
