"""Models that are replaced while requests run: leases, retirement, names."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from edge_agent.core.engine_selection import BatchPolicy
from edge_agent.decoding.decoder import ThreadDecoder
from edge_agent.engines.model import LoadedModel
from edge_agent.errors import NotReady, UnknownModel
from edge_agent.imaging import Limits
from edge_agent.serving.detection import DetectionService
from edge_agent.serving.model_host import ModelHost, ServedModel
from edge_agent.serving.types import DetectionRequest
from tests.support.agents.tagged import (
    SIDE,
    Latch,
    eventually,
    in_flight,
    manifest,
    tagged_png,
)
from tests.support.engines.fake_engine import FakeEngine


def model(
    name: str = "toy", digest: str = "a" * 64, *, side: int = SIDE, **engine: Any
) -> LoadedModel:
    """Return a loaded model whose engine takes images of this side only."""
    declared = manifest(name=name, input={"height": side, "width": side})
    return LoadedModel(
        declared, digest, declared.engines[0], FakeEngine(side, side, **engine), "a test"
    )


def service(host: ModelHost) -> DetectionService:
    return DetectionService(host, ThreadDecoder(2, Limits()), queue_size=64)


def request(tag: int, **changes: Any) -> DetectionRequest:
    return DetectionRequest(**{"request_id": str(tag), "image": tagged_png(tag)} | changes)


async def test_the_first_model_is_the_default_and_others_are_found_by_name() -> None:
    host = ModelHost([model("one"), model("two", "b" * 64)])
    assert host.find().name == host.find("one").name == "one"
    assert host.find("two").model.digest == "b" * 64
    with pytest.raises(UnknownModel) as caught:
        host.find("three")
    assert "'one' or 'two'" in caught.value.hint
    await host.close()
    with pytest.raises(NotReady):
        host.find()


async def test_two_models_of_one_name_are_refused() -> None:
    host = ModelHost([model("one"), model("two")])
    first, second = host.models
    with pytest.raises(ValueError, match="'two' is served already"):
        host.replace(first, ServedModel(model("two")))
    with pytest.raises(ValueError, match="'one' is served already"):
        host.add(ServedModel(model("one")))
    assert host.models == (first, second)
    await host.close()


async def test_requests_in_flight_keep_their_model_and_later_ones_get_the_new_one() -> None:
    """The old engine takes no image of the new model's size, and the other way round."""
    latch = Latch()
    host = ModelHost([model(digest="a" * 64, before=latch)])
    old, new = host.find(), ServedModel(model(digest="b" * 64, side=2 * SIDE))
    detection = service(host)
    before = [asyncio.create_task(detection.detect(request(tag))) for tag in range(150, 160)]
    # Two threads decode, so any of the first images may be the one that the engine holds.
    await eventually(lambda: any(map(latch.has_arrived, range(150, 160))))
    await eventually(lambda: in_flight(detection) == 10)
    host.replace(old, new)
    after = [asyncio.create_task(detection.detect(request(tag))) for tag in range(160, 165)]
    retiring = asyncio.create_task(old.retire())
    latch.release(*range(150, 165))
    answers = await asyncio.gather(*before, *after)
    assert await retiring
    assert [answer.request_id for answer in answers] == [str(tag) for tag in range(150, 165)]
    assert {answer.bundle_digest for answer in answers[10:]} == {"b" * 64}
    assert answers[0].bundle_digest == "a" * 64
    assert old.leases == new.leases == 0
    await detection.close()


async def test_a_pinned_model_answers_although_it_was_replaced() -> None:
    host = ModelHost([model(digest="a" * 64)])
    detection = service(host)
    old = host.find()
    with detection.pin() as detect:
        host.replace(old, ServedModel(model(digest="b" * 64)))
        retiring = asyncio.create_task(old.retire())
        assert (await detect(request(150))).bundle_digest == "a" * 64
        assert (await detection.detect(request(151))).bundle_digest == "b" * 64
        assert not retiring.done()
    assert await retiring
    await detection.close()


async def test_requests_that_name_a_model_get_it_although_its_successor_has_another_name() -> None:
    latch = Latch()
    host = ModelHost([model("old", before=latch)])
    detection = service(host)
    old = host.find()
    running = asyncio.create_task(detection.detect(request(150, model="old")))
    await latch.wait_for_arrival(150)
    # Enough to wait in the queue, which admits four of them at a time.
    waiting = [
        asyncio.create_task(detection.detect(request(tag, model="old"))) for tag in range(151, 160)
    ]
    await eventually(lambda: in_flight(detection) == 10)
    with detection.pin("old") as detect:
        host.replace(old, ServedModel(model("new", digest="b" * 64)))
        latch.release(*range(150, 161))
        pinned = await detect(request(160, model="old"))
    answers = await asyncio.gather(running, *waiting)
    assert {answer.bundle_digest for answer in (*answers, pinned)} == {"a" * 64}
    with pytest.raises(UnknownModel):
        await detection.detect(request(161, model="old"))
    assert await old.retire()
    await detection.close()


async def test_a_retirement_that_times_out_fails_what_still_waits() -> None:
    latch = Latch()
    host = ModelHost([model(before=latch)])
    detection = service(host)
    old = host.find()
    running = asyncio.create_task(detection.detect(request(150)))
    await latch.wait_for_arrival(150)
    waiting = asyncio.create_task(detection.detect(request(151)))
    await eventually(lambda: old.leases == 2)
    host.replace(old, ServedModel(model(digest="b" * 64)))
    retiring = asyncio.create_task(old.retire(timeout_s=0))
    with pytest.raises(NotReady):
        await waiting
    latch.release(150)
    assert (await running).request_id == "150"
    assert await retiring
    await detection.close()


async def test_an_engine_that_hangs_is_given_up_and_not_freed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge_agent.serving.model_host.HANG_TIMEOUT_S", 0.05)
    latch = Latch()
    host = ModelHost([model(before=latch)])
    detection = service(host)
    old = host.find()
    running = asyncio.create_task(detection.detect(request(150)))
    await latch.wait_for_arrival(150)
    host.replace(old, ServedModel(model(digest="b" * 64)))
    assert not await old.retire(timeout_s=0)
    assert (await detection.detect(request(152))).bundle_digest == "b" * 64
    latch.release(150)  # The engine was not closed under it: it still answers.
    assert (await running).bundle_digest == old.model.digest
    await detection.close()


async def test_cancelled_requests_give_their_lease_back() -> None:
    latch = Latch()
    host = ModelHost([model(before=latch)])
    detection = service(host)
    tasks = [asyncio.create_task(detection.detect(request(tag))) for tag in range(150, 154)]
    await latch.wait_for_arrival(150)
    await eventually(lambda: host.find().leases == 4)
    for task in tasks:
        task.cancel()
    latch.release(*range(150, 154))
    await asyncio.gather(*tasks, return_exceptions=True)
    assert host.find().leases == 0
    await detection.close()


async def test_the_number_of_running_requests_follows_the_models() -> None:
    started = threading.Semaphore(0)
    latch = Latch()

    def arrive(batch: Any) -> None:
        started.release()
        latch(batch)

    host = ModelHost([model()])
    detection = service(host)
    wide = LoadedModel(
        manifest(),
        "b" * 64,
        manifest().engines[0],
        FakeEngine(SIDE, SIDE, before=arrive),
        "a test",
        BatchPolicy(parallel_requests=4),
    )
    old = host.find()
    host.replace(old, ServedModel(wide))
    assert await old.retire()
    tasks = [asyncio.create_task(detection.detect(request(tag))) for tag in range(150, 154)]
    for _ in tasks:
        assert await asyncio.to_thread(started.acquire, timeout=60)
    latch.release(*range(150, 154))
    assert {answer.bundle_digest for answer in await asyncio.gather(*tasks)} == {"b" * 64}
    await detection.close()
