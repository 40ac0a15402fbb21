"""Decode workers as real processes, against everything that may happen to them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from edge_agent.core.radiograph import Radiograph
from edge_agent.decoding.pool import DecodePolicy, DecoderPool
from edge_agent.errors import (
    DeadlineExceeded,
    DecoderFailed,
    EngineFailed,
    NotReady,
    StudyImageRefused,
)
from edge_agent.imaging import Limits, read_study
from hilum.codes import ErrorCode
from tests.campaign.decode_workers import SIDE, campaign, tag_in, tagged_image
from tests.conftest import pydicom_file
from tests.support.images.hostile_reader import PATH, misbehaving

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[3]
FIT = (SIDE, SIDE)
POLICY = DecodePolicy(workers=2, timeout_s=20.0, memory_bytes=512 << 20)


@pytest.fixture(scope="module", autouse=True)
def _tests_on_the_path_of_processes() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        patch.setenv("HILUM_EDGE__SECRET", "for the agent only")
        yield


@asynccontextmanager
async def started(policy: DecodePolicy = POLICY, **more: Any) -> AsyncIterator[DecoderPool]:
    workers = DecoderPool(Limits(), policy, reader=PATH, **more)
    await workers.start()
    try:
        yield workers
    finally:
        await workers.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def workers() -> AsyncIterator[DecoderPool]:
    async with started() as pool:
        yield pool


async def until(condition: Callable[[], bool], _what: str) -> None:
    """Wait for it; 30 s without it is a failure."""
    async with asyncio.timeout(30):
        while True:
            if condition():
                return
            await asyncio.sleep(0.002)


async def all_are_back(workers: DecoderPool) -> None:
    """All places are filled, and whoever is there answers right."""
    await until(lambda: workers.stats().idle == workers.concurrency, "workers were not replaced")
    for tag in range(4):
        assert tag_in(await workers.decode(tagged_image(tag), fit=FIT)) == tag


def exists(pid: int) -> bool:
    """Whether a process runs (one that waits to be reaped does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def files(folder: Path) -> list[tuple[str, int]]:
    """Names and sizes in bytes."""
    return [(path.name, path.stat().st_size) for path in folder.iterdir()]


def names(folder: str) -> set[str]:
    """What lies in a folder."""
    return {path.name for path in Path(folder).iterdir()}


def libraries(pid: int) -> str:
    """All files that a process has mapped."""
    return Path(f"/proc/{pid}/maps").read_text(encoding="ascii")


def start_agent() -> tuple[subprocess.Popen[str], list[int]]:
    """An agent of its own, both of whose workers hang; and its decode processes."""
    agent = subprocess.Popen([sys.executable, "-c", AGENT], stdout=subprocess.PIPE, text=True)
    assert agent.stdout is not None
    with agent.stdout as said:
        return agent, [int(pid) for pid in said.readline().split()]


def status(pid: int, name: str) -> int:
    """A figure of /proc/PID/status, in kB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise KeyError(name)


# --- right answers --------------------------------------------------------------------------


@pytest.mark.parametrize("fit", [(640, 640), (512, 1024), None])
@pytest.mark.parametrize("name", ["RG1_UNCI.dcm", "RG1_J2KI.dcm", "RG1_J2KR.dcm"])
async def test_a_study_is_decoded_exactly_as_in_process(
    workers: DecoderPool, name: str, fit: tuple[int, int] | None
) -> None:
    data = pydicom_file(name).read_bytes()
    here, context = read_study(data, fit=fit)
    decoded = await workers.decode(memoryview(data), fit=fit)
    for field in fields(Radiograph):
        mine, theirs = getattr(here, field.name), getattr(decoded.radiograph, field.name)
        same = np.array_equal(mine, theirs) if field.name == "pixels" else mine == theirs
        assert same, field.name
    assert decoded.radiograph.pixels.dtype == np.uint8
    assert decoded.radiograph.pixels.flags.c_contiguous
    assert decoded.radiograph.pixels.flags.owndata
    assert decoded.context == context
    assert context.patient_id


async def test_started_twice_it_has_no_more_workers(workers: DecoderPool) -> None:
    pids = workers.stats().pids
    await workers.start()
    assert workers.stats().pids == pids


async def test_what_is_smaller_than_the_models_input_has_room_to_be_enlarged() -> None:
    few = DecoderPool(Limits(max_pixels=SIDE * SIDE), DecodePolicy(workers=1))
    await few.start()
    try:
        decoded = await few.decode(tagged_image(3), fit=(640, 640))
    finally:
        await few.close()
    assert decoded.radiograph.pixels.shape == (640, 640)


async def test_real_rasters_too(workers: DecoderPool, radiographs: list[Path]) -> None:
    for file in radiographs[:6]:
        data = file.read_bytes()
        here, _context = read_study(data, fit=(640, 640))
        decoded = await workers.decode(data, fit=(640, 640))
        np.testing.assert_array_equal(decoded.radiograph.pixels, here.pixels)


@pytest.mark.parametrize(
    "data",
    [b"", b"no image at all", pydicom_file("RG3_UNCI.dcm").read_bytes(), tagged_image(3)[:-40]],
    ids=["empty", "text", "ankle", "cut off"],
)
async def test_a_refusal_arrives_as_it_was_raised(workers: DecoderPool, data: bytes) -> None:
    with pytest.raises(StudyImageRefused) as here:
        read_study(data)
    before = workers.stats().pids
    with pytest.raises(StudyImageRefused) as there:
        await workers.decode(data, fit=FIT)
    for name in ("code", "message", "hint"):
        assert getattr(there.value, name) == getattr(here.value, name)
    assert workers.stats().pids == before


async def test_any_error_of_ours_keeps_its_type(workers: DecoderPool) -> None:
    with pytest.raises(EngineFailed) as raised:
        await workers.decode(misbehaving("ours", b""))
    assert (raised.value.code, raised.value.hint) == (ErrorCode.INTERNAL, "A hint.")


async def test_a_bug_says_where_but_not_what_the_header_held(workers: DecoderPool) -> None:
    with pytest.raises(DecoderFailed, match=r"LookupError at hostile_reader\.py:\d+") as raised:
        await workers.decode(misbehaving("bug", b""))
    assert "Doe" not in str(raised.value)
    await all_are_back(workers)


async def test_a_file_beyond_the_limit_is_refused_before_it_is_copied() -> None:
    workers = DecoderPool(Limits(max_bytes=1 << 20), POLICY, reader=PATH)
    await workers.start()
    try:
        with pytest.raises(StudyImageRefused) as refused:
            await workers.decode(bytes((1 << 20) + 1))
        assert refused.value.code is ErrorCode.TOO_LARGE
    finally:
        await workers.close()


# --- crashes and hangs ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "how"),
    [
        ("exit", "exit status 7"),
        ("segfault", "signal SIGSEGV"),
        ("kill", "signal SIGKILL"),
        ("native-bomb", "signal SIGSEGV"),
        ("close", "closed its channel"),
    ],
)
async def test_a_crash_costs_one_image_its_answer(
    workers: DecoderPool, command: str, how: str
) -> None:
    before = workers.stats()
    image = tagged_image(5)
    crash, *others = await asyncio.gather(
        workers.decode(misbehaving(command, image), fit=FIT),
        *(workers.decode(image, fit=FIT) for _ in range(6)),
        return_exceptions=True,
    )
    assert isinstance(crash, DecoderFailed)
    assert how in crash.message
    assert [tag_in(other) for other in others if not isinstance(other, BaseException)] == [5] * 6
    await all_are_back(workers)
    assert workers.stats().replaced == before.replaced + 1
    assert len(set(workers.stats().pids) & set(before.pids)) == 1


async def test_a_memory_bomb_is_an_error_and_the_agent_lives(workers: DecoderPool) -> None:
    with pytest.raises(DecoderFailed, match="more memory than is allowed"):
        await workers.decode(misbehaving("bomb", tagged_image(0)))
    await all_are_back(workers)


@pytest.mark.parametrize("command", ["hang", "hang-native"])
async def test_a_hang_ends_when_its_time_is_over(workers: DecoderPool, command: str) -> None:
    hang = asyncio.create_task(workers.decode(misbehaving(command, tagged_image(0)), timeout_s=0.2))
    for tag in range(6):
        assert tag_in(await workers.decode(tagged_image(tag), fit=FIT)) == tag
    with pytest.raises(DecoderFailed, match=r"not done with this image in 0\.2 s"):
        await hang
    await all_are_back(workers)


async def test_killed_from_outside_while_it_decodes(workers: DecoderPool, tmp_path: Path) -> None:
    before = set(workers.stats().pids)
    slow = [
        asyncio.create_task(
            workers.decode(misbehaving(f"begin {tmp_path / str(tag)}", tagged_image(tag)), fit=FIT)
        )
        for tag in (1, 2)
    ]
    waiting = asyncio.create_task(workers.decode(tagged_image(9), fit=FIT))
    await until(lambda: len(files(tmp_path)) == 2, "both have begun")
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    ends = await asyncio.gather(*slow, return_exceptions=True)
    failed = [end for end in ends if isinstance(end, BaseException)]
    (answered,) = (end for end in ends if not isinstance(end, BaseException))
    assert [isinstance(end, DecoderFailed) and "SIGKILL" in end.message for end in failed] == [True]
    assert tag_in(answered) == 1 + ends.index(answered)
    assert tag_in(await waiting) == 9
    await all_are_back(workers)
    assert victim not in workers.stats().pids


async def test_idle_workers_that_die_are_replaced_and_nobody_notices(
    workers: DecoderPool,
) -> None:
    before = workers.stats()
    for pid in before.pids:
        os.kill(pid, signal.SIGKILL)
    answers = await asyncio.gather(
        *(workers.decode(tagged_image(tag), fit=FIT) for tag in range(8)), return_exceptions=True
    )
    # One that was handed its image in the very moment of its death may have taken it along.
    assert sum(isinstance(answer, DecoderFailed) for answer in answers) <= len(before.pids)
    for tag, answer in enumerate(answers):
        if not isinstance(answer, BaseException):
            assert tag_in(answer) == tag
    await all_are_back(workers)
    assert not set(before.pids) & set(workers.stats().pids)


async def test_all_of_them_killed_start_again(workers: DecoderPool) -> None:
    before = workers.stats()
    assert before.nursery_pid is not None
    os.kill(before.nursery_pid, signal.SIGKILL)
    await until(lambda: workers.stats().nursery_pid not in {None, before.nursery_pid}, "a new one")
    await all_are_back(workers)
    assert not [pid for pid in before.pids if exists(pid)]


# --- cancellation ---------------------------------------------------------------------------


async def test_a_late_answer_is_thrown_away_and_its_worker_used_again(
    workers: DecoderPool,
) -> None:
    before = workers.stats()
    late = [
        asyncio.create_task(workers.decode(misbehaving("sleep 0.03", tagged_image(7)), fit=FIT))
        for _ in range(2)
    ]
    await until(lambda: workers.stats().idle == 0, "both have begun")
    for task in late:
        task.cancel()
    await asyncio.wait(late)
    for tag in range(8, 12):
        assert tag_in(await workers.decode(tagged_image(tag), fit=FIT)) == tag
    await all_are_back(workers)
    assert workers.stats().pids == before.pids
    assert workers.stats().decoded >= before.decoded + 2 + 4


async def test_a_cancelled_request_that_goes_on_is_ended(workers: DecoderPool) -> None:
    before = workers.stats()
    hang = asyncio.create_task(workers.decode(misbehaving("hang", tagged_image(0))))
    await until(lambda: workers.stats().idle == 1, "it has begun")
    hang.cancel()
    await asyncio.wait([hang])
    assert hang.cancelled()
    await until(lambda: workers.stats().replaced == before.replaced + 1, "it is replaced")
    await all_are_back(workers)
    assert workers.stats().failures["abandoned"] == before.failures.get("abandoned", 0) + 1


async def test_a_deadline_that_passes_while_waiting_for_a_worker(workers: DecoderPool) -> None:
    before = workers.stats()
    busy = [
        asyncio.create_task(workers.decode(misbehaving("sleep 1", tagged_image(1)), fit=FIT))
        for _ in range(workers.concurrency)
    ]
    await until(lambda: workers.stats().idle == 0, "all are busy")
    now = asyncio.get_running_loop().time()
    for deadline in (now + 0.05, now):
        with pytest.raises(DeadlineExceeded):
            await workers.decode(tagged_image(2), fit=FIT, deadline=deadline)
    assert [tag_in(await task) for task in busy] == [1] * workers.concurrency
    with pytest.raises(DeadlineExceeded):
        await workers.decode(tagged_image(2), fit=FIT, deadline=now)
    assert workers.stats().decoded == before.decoded + workers.concurrency
    in_time = asyncio.get_running_loop().time() + 60
    assert tag_in(await workers.decode(tagged_image(3), fit=FIT, deadline=in_time)) == 3
    await all_are_back(workers)
    assert workers.stats().pids == before.pids


async def test_cancelled_while_waiting_for_a_worker(workers: DecoderPool) -> None:
    slow = [
        asyncio.create_task(workers.decode(misbehaving("sleep 0.05", tagged_image(1)), fit=FIT))
        for _ in range(2)
    ]
    await until(lambda: workers.stats().idle == 0, "all are busy")
    waiting = [asyncio.create_task(workers.decode(tagged_image(tag), fit=FIT)) for tag in range(6)]
    await asyncio.sleep(0)
    for task in waiting[::2]:
        task.cancel()
    await asyncio.wait(waiting)
    assert [task.cancelled() for task in waiting] == [True, False] * 3
    assert [tag_in(task.result()) for task in waiting[1::2]] == [1, 3, 5]
    assert [tag_in(await task) for task in slow] == [1, 1]
    await all_are_back(workers)


# --- a worker that was taken over -----------------------------------------------------------

FACTS = {
    "rows": 256, "columns": 256, "format": "png", "bits_stored": 8, "view": "", "laterality": "",
    "body_part": "", "manufacturer": "", "photometric": "", "transfer_syntax": "", "spacing": None,
    "warnings": [],
}  # fmt: skip
FORGED = {
    "not json": "nonsense",
    "an old sequence": json.dumps(
        {"sequence": 1, "shape": [256, 256], "facts": FACTS, "context": {}}
    ),
    "nothing": json.dumps({"sequence": 1}),
    "unknown fields": json.dumps({"sequence": 1, "do": "fork"}),
    "deep": "[" * 20_000,
}


@pytest.mark.parametrize("packet", FORGED.values(), ids=FORGED.keys())
async def test_a_forged_answer_is_refused_and_its_worker_ended(
    workers: DecoderPool, packet: str
) -> None:
    before = workers.stats()
    with pytest.raises(DecoderFailed, match="answer"):
        await workers.decode(misbehaving(f"say {packet}", tagged_image(2)), fit=FIT)
    await all_are_back(workers)
    assert workers.stats().replaced == before.replaced + 1
    assert workers.stats().failures["invalid_answer"] > before.failures.get("invalid_answer", 0)


async def test_a_pickle_is_never_opened(workers: DecoderPool, tmp_path: Path) -> None:
    made = tmp_path / "made by a pickle"
    with pytest.raises(DecoderFailed, match="cannot be read"):
        await workers.decode(misbehaving(f"say-pickle {made}", tagged_image(2)))
    assert not names(str(tmp_path))
    await all_are_back(workers)


async def test_an_answer_in_advance_never_reaches_the_next_request() -> None:
    """The forged one has the right sequence, so the true one is left over for who comes next.

    It may be there already, then the worker is replaced first; or come later, then it is refused.
    """
    async with started(DecodePolicy(workers=1)) as workers:
        forged = {"sequence": 1, "error": {"kind": "StudyImageRefused", "code": "corrupt",
                  "message": "forged", "hint": ""}}  # fmt: skip
        with pytest.raises(StudyImageRefused, match="forged"):
            await workers.decode(misbehaving(f"say {json.dumps(forged)}", tagged_image(1)), fit=FIT)
        (end,) = await asyncio.gather(
            workers.decode(tagged_image(2), fit=FIT), return_exceptions=True
        )
        if isinstance(end, BaseException):
            assert "another request" in str(end)
        else:
            assert tag_in(end) == 2
        await all_are_back(workers)
        assert workers.stats().replaced == 1


async def test_a_worker_writes_no_files_and_has_neither_descriptors_nor_secrets(
    workers: DecoderPool, tmp_path: Path
) -> None:
    await workers.decode(misbehaving(f"write {tmp_path / 'leak'}", tagged_image(0)))
    assert not any(size_bytes for _name, size_bytes in files(tmp_path))
    with pytest.raises(EngineFailed) as descriptors:
        await workers.decode(misbehaving("descriptors", b""))
    # The three standard streams, its channel and its memory.
    assert len(json.loads(descriptors.value.message)) == 5
    with pytest.raises(EngineFailed) as environment:
        await workers.decode(misbehaving("environment", b""))
    assert "HILUM_EDGE__SECRET" not in json.loads(environment.value.message)


# --- the processes --------------------------------------------------------------------------


async def test_processes_are_small_and_hold_no_engine_and_no_transport(
    workers: DecoderPool,
) -> None:
    nursery_pid = workers.stats().nursery_pid
    assert nursery_pid is not None
    mapped = libraries(nursery_pid)
    assert "cv2" in mapped
    assert not [name for name in ("openvino", "grpc", "onnxruntime", "torch") if name in mapped]
    for pid in (nursery_pid, *workers.stats().pids):
        # RssAnon counts what is shared with the nursery too, so this is an upper bound.
        assert status(pid, "RssAnon") < 100_000
        assert status(pid, "Threads") == 1


async def test_the_agent_itself_holds_no_decoder() -> None:
    program = (
        "import sys, edge_agent.decoding.pool\n"
        "print(*{name.split('.')[0] for name in sys.modules} & {'cv2', 'imagecodecs', 'pydicom'})"
    )
    said = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not said.stdout.strip()


async def test_signals_for_the_agent_are_left_to_the_agent(workers: DecoderPool) -> None:
    stats = workers.stats()
    assert stats.nursery_pid is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for pid in (stats.nursery_pid, *stats.pids):
            os.kill(pid, number)
    for tag in range(6):
        assert tag_in(await workers.decode(tagged_image(tag), fit=FIT)) == tag
    assert workers.stats().pids == stats.pids


AGENT = """
import asyncio, sys
from edge_agent.imaging import Limits
from edge_agent.decoding.pool import DecodePolicy, DecoderPool
from tests.support.images.hostile_reader import PATH, misbehaving

async def main():
    workers = DecoderPool(Limits(), DecodePolicy(workers=2, timeout_s=600), reader=PATH)
    await workers.start()
    tasks = [asyncio.create_task(workers.decode(misbehaving(how, b"")))
             for how in ("hang", "hang-native")]
    while workers.stats().idle:
        await asyncio.sleep(0.01)
    stats = workers.stats()
    print(stats.nursery_pid, *stats.pids, flush=True)
    await asyncio.wait(tasks)

asyncio.run(main())
"""


async def test_nothing_is_left_when_the_agent_is_killed() -> None:
    shared_before = names("/dev/shm")  # noqa: S108  # where named segments would lie
    agent, pids = await asyncio.to_thread(start_agent)
    try:
        assert len(pids) == 3
        assert all(exists(pid) for pid in pids)
    finally:
        agent.kill()
        agent.wait()
    await until(lambda: not any(exists(pid) for pid in pids), "all processes have ended")
    assert names("/dev/shm") <= shared_before  # noqa: S108  # as above


async def test_a_pool_that_is_not_running_says_so() -> None:
    workers = DecoderPool(Limits(), POLICY, reader=PATH)
    with pytest.raises(NotReady):
        await workers.decode(tagged_image(0))
    await workers.close()


async def test_closing_ends_everything_and_tells_everybody() -> None:
    async with started() as workers:
        pids = (workers.stats().nursery_pid, *workers.stats().pids)
        tasks = [asyncio.create_task(workers.decode(misbehaving("hang", b""))) for _ in range(5)]
        await until(lambda: workers.stats().idle == 0, "all are busy")
        await workers.close()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, DecoderFailed | NotReady) for end in ends)
        assert sum(isinstance(end, NotReady) for end in ends) >= 3
        assert not [pid for pid in pids if pid is not None and exists(pid)]
        with pytest.raises(NotReady):
            await workers.decode(tagged_image(0))


async def test_what_cannot_start_says_why_and_leaves_nothing() -> None:
    workers = DecoderPool(Limits(), POLICY, reader="tests.support.images.hostile_reader:absent")
    with pytest.raises(DecoderFailed, match="has no attribute 'absent'"):
        await workers.start()
    assert workers.stats().nursery_pid is None


# --- over time ------------------------------------------------------------------------------


async def test_descriptors_and_memory_stay_flat_over_2000_requests(
    workers: DecoderPool, rg1: bytes
) -> None:
    async def some(count: int) -> None:
        async def client(offset: int) -> None:
            for tag in range(offset, offset + count // 8):
                image = tagged_image(tag % 256)
                assert tag_in(await workers.decode(image, fit=FIT)) == tag % 256

        await asyncio.gather(*(client(31 * number) for number in range(8)))
        await asyncio.gather(*(workers.decode(rg1, fit=(640, 640)) for _ in range(4)))

    def figures() -> tuple[int, list[int]]:
        pids = (os.getpid(), *workers.stats().pids)
        return len(names("/proc/self/fd")), [status(pid, "RssAnon") for pid in pids]

    await some(400)
    descriptors, memory = figures()
    before = workers.stats().pids
    await some(2000)
    descriptors_after, memory_after = figures()
    assert workers.stats().pids == before
    assert descriptors_after == descriptors
    for then, now in zip(memory, memory_after, strict=True):
        assert now < then + 8_000, f"{then} kB grew to {now} kB"


async def test_descriptors_stay_flat_over_replacements(workers: DecoderPool) -> None:
    async def crashes(count: int) -> None:
        for _ in range(count):
            with pytest.raises(DecoderFailed):
                await workers.decode(misbehaving("exit", b""))
        await all_are_back(workers)

    await crashes(2)
    before = len(names("/proc/self/fd"))
    await crashes(20)
    assert len(names("/proc/self/fd")) == before


async def test_no_answer_ever_reaches_another_request() -> None:
    tally = await campaign(500, seed=int(time.time()), kill_all_every=4)
    assert not tally.wrong
    assert sum(tally.ends.values()) == 500
    assert tally.ends["answered"] > 250
    assert tally.ends["failed"] > 10
    assert tally.ends["cancelled"] > 10
    assert set(tally.kills) == {"one", "all"}
