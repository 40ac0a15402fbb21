"""Check that models can be replaced under load without a lost or mixed-up answer.

The clients and faults are those of the identity campaign: 64 clients on both transports, random
cancellations and deadlines, decode workers killed from outside. Meanwhile the model is replaced and
taken back by models whose inputs have other sizes, with and without a shadow. Each engine takes
images of its own input's size only, and shifts the class of its findings by a number of its own, so
that an answer shows which engine made it: it must be that of the digest in the answer.

    python -m tests.campaign.swap --swaps 200 --reverts 50
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_agent.app.agent import Agent
from edge_agent.config import Settings
from edge_agent.core.cpu_budget import CpuBudget
from edge_agent.core.engine_selection import BatchPolicy
from edge_agent.core.findings import Finding
from edge_agent.core.model_change import Step
from edge_agent.core.radiograph import ImageFacts
from edge_agent.decoding.decoder import Decoder
from edge_agent.engines.base import Pixels, RawOutputs
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.loader import LoadOptions
from edge_agent.engines.model import LoadedModel
from edge_agent.serving.detection import DetectionService
from edge_agent.serving.model_host import ModelHost
from edge_agent.serving.shadow import Shadow
from edge_agent.system.processes import memory_kb
from hilum.manifest import EngineVariant, Manifest
from hilum.v1 import detection_pb2 as pb
from tests.campaign.identity import Campaign, Tally, run_clients
from tests.support.agents.tagged import eventually, in_flight, settings, write_toy_bundle
from tests.support.engines.fake_engine import FakeEngine

SIDES = (128, 256, 384)
"""Input sizes of the models; the images' sides are 128."""
TAG_CLASS = 200 % 14
"""Class of the brightest value in the campaign's images, as `FakeEngine` reads it."""
CLASSES = 14


class ShiftedEngine(FakeEngine):
    """An engine whose findings have the class of the image, shifted by the engine's number."""

    def __init__(self, side: int, shift: int) -> None:
        super().__init__(side, side, name="openvino-fp32", before=lambda _batch: time.sleep(0.001))
        self._shift = shift

    def infer(self, batch: Pixels) -> RawOutputs:
        """See `Engine.infer`."""
        outputs = super().infer(batch)
        outputs[:, 4:] = outputs[:, 4:].take(
            [(index - self._shift) % CLASSES for index in range(CLASSES)], axis=1
        )
        return outputs


class QuietShadow:
    """A shadow model that finds nothing, in this process."""

    def __init__(self, bundle: Bundle) -> None:
        self.manifest: Manifest = bundle.manifest
        self.digest = bundle.digest
        self.variant: EngineVariant = bundle.manifest.engines[0]
        self.cpu_s = 0.0
        self.images = 0

    async def detect(self, radiograph_pixels: Pixels, facts: ImageFacts) -> Sequence[Finding]:
        """Count an image of the input's size."""
        assert radiograph_pixels.shape == (self.manifest.input.height, self.manifest.input.width)
        self.images += 1
        await asyncio.sleep(0.002)
        return ()

    async def close(self) -> None:
        """Do nothing."""


@dataclass
class SwapTally(Tally):
    """Counts of the changes as well."""

    changes: Counter[str] = field(default_factory=Counter)
    answered_by: Counter[str] = field(default_factory=Counter)
    shadow_images: int = 0
    descriptors: list[int] = field(default_factory=list)
    memory_kb: list[int] = field(default_factory=list)


class SwapCampaign(Campaign):
    """The requests of the identity campaign; the answers also show the engine.

    A change of the model is no excuse for an error: only a killed worker and a short deadline are.
    """

    may_fail = frozenset({"decoder_failed", "deadline_exceeded"})

    def __init__(
        self, agent: Agent, chance: random.Random, tally: SwapTally, shifts: dict[str, int]
    ) -> None:
        super().__init__(agent, chance, tally)
        self.swap_tally = tally
        self.shifts = shifts

    def check_model(self, digest: str, class_index: int, tag: int) -> None:
        """Check that an answer was made by the engine of the model that it names."""
        self.swap_tally.answered_by[digest[:8]] += 1
        if class_index != (TAG_CLASS + self.shifts[digest]) % CLASSES:
            self.tally.wrong.append(f"{tag}: another model than {digest[:8]} answered")

    def check_response(
        self, tag: int, request: pb.DetectRequest, response: pb.DetectResponse
    ) -> None:
        """See `Campaign.check_response`."""
        super().check_response(tag, request, response)
        for found in response.findings:
            self.check_model(response.bundle_digest, found.index, tag)

    def check_body(self, tag: int, request: pb.DetectRequest, body: dict[str, Any]) -> None:
        """See `Campaign.check_body`."""
        super().check_body(tag, request, body)
        for found in body["predictions"]:
            self.check_model(body["bundle_digest"], found["index"], tag)


async def campaign(
    *, swaps: int, reverts: int, clients: int = 64, seed: int = 0, kill_every: int = 97
) -> SwapTally:
    """Run the campaign until all changes are done; `wrong` of the tally must be empty."""
    tally, chance = SwapTally(), random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="hilum-swap-") as text:
        folder = Path(text)
        bundles = [
            Bundle.open(write_toy_bundle(folder / f"{k}.bundle", side=side, version=f"1.{k}.0"))
            for k, side in enumerate(SIDES)
        ]
        shifts = {bundle.digest: k for k, bundle in enumerate(bundles)}

        def load_fake(bundle: Bundle, _options: LoadOptions) -> LoadedModel:
            side, variant = bundle.manifest.input.height, bundle.manifest.engines[0]
            engine = ShiftedEngine(side, shifts[bundle.digest])
            batching = BatchPolicy(max_batch=3, parallel_requests=2)
            return LoadedModel(bundle.manifest, bundle.digest, variant, engine, "a test", batching)

        def load(configured: Settings, decoder: Decoder) -> DetectionService:
            model = load_fake(bundles[0], LoadOptions(configured.cache_dir))
            return DetectionService(
                ModelHost([model]), decoder, queue_size=configured.limits.queue_size
            )

        agent = Agent(
            settings(
                http={"enabled": True},
                decode={"workers": 2},
                limits={"queue_size": clients * 8},
                bundle=bundles[0].path,
                state_dir=folder / "state",
            ),
            load,
        )
        agent._changes._load = load_fake
        started = time.perf_counter()
        await agent.start()
        try:
            await agent.load()
            run = SwapCampaign(agent, chance, tally, shifts)
            done = asyncio.Event()
            changing = asyncio.create_task(
                _change_models(run, bundles, swaps=swaps, reverts=reverts, done=done)
            )
            await run_clients(run, _numbers(run, done, kill_every), clients)
            await changing
            assert agent.detection
            detection = agent.detection
            await eventually(lambda: in_flight(detection) == 0)
            if any(served.leases for served in detection.host.models):
                tally.wrong.append("a lease was not given back")
        finally:
            if not await agent.stop():
                tally.wrong.append("the agent did not stop")
    tally.seconds = time.perf_counter() - started
    return tally


def _numbers(run: Campaign, done: asyncio.Event, kill_every: int) -> Iterator[int]:
    """Yield requests' numbers until the changes are done, and kill a worker now and then."""
    for number in itertools.count():
        if done.is_set():
            return
        if number % kill_every == kill_every - 1:
            run.kill(everything=False)
        yield number


async def _change_models(
    run: SwapCampaign, bundles: Sequence[Bundle], *, swaps: int, reverts: int, done: asyncio.Event
) -> None:
    """Replace and take back the model, and begin and end a shadow, until all is done."""
    agent, tally, chance = run.agent, run.swap_tally, run.chance
    shadow: Shadow | None = None
    quiet: QuietShadow | None = None
    kinds = ["swap"] * swaps + ["revert"] * reverts
    chance.shuffle(kinds)
    try:
        for number, kind in enumerate(["swap", *kinds]):
            assert agent.detection
            detection = agent.detection
            active = detection.model.digest
            if kind == "swap":
                others = [bundle for bundle in bundles if bundle.digest != active]
                final = await agent._changes.activate(chance.choice(others).path)
            else:
                final = await agent._changes.revert()
            tally.changes[f"{kind} {final.step}"] += 1
            if final.step is not Step.ACTIVE or detection.model.digest == active:
                tally.wrong.append(f"{kind} {number}: {final.step} {final.reason}")
            if number % 8 == 0:
                if shadow is None:
                    quiet = QuietShadow(chance.choice(bundles))
                    shadow = Shadow(quiet, CpuBudget(1.0), detection.decode_when_idle)
                    detection.after_answer(shadow.offer)
                else:
                    detection.after_answer(None)
                    await shadow.close()
                    tally.shadow_images += quiet.images if quiet else 0
                    shadow = None
            if number % 10 == 0:
                gc.collect()
                tally.descriptors.append(_count_descriptors())
                tally.memory_kb.append(memory_kb(os.getpid()))
    finally:
        done.set()
        if shadow is not None:
            with suppress(Exception):
                await shadow.close()


def _count_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the long campaign and print its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=200)
    parser.add_argument("--reverts", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    tally = asyncio.run(
        campaign(swaps=arguments.swaps, reverts=arguments.reverts, seed=arguments.seed)
    )
    print(
        f"swap: {dict(tally.changes)} in {tally.seconds:.0f} s; answers {dict(tally.answered_by)}; "
        f"ends {dict(tally.ends)}; killed {dict(tally.kills)}; shadow saw {tally.shadow_images}; "
        f"descriptors {tally.descriptors[0]} to {tally.descriptors[-1]}, memory "
        f"{tally.memory_kb[0] >> 10} to {tally.memory_kb[-1] >> 10} MB; wrong: {len(tally.wrong)}"
    )
    for line in tally.wrong[:20]:
        print(" ", line)
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
