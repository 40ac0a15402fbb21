"""The decoder pool with real processes: crashes, hangs, kills, cancellation, forged responses."""

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
from tests.support.images.hostile_reader import PATH, make_hostile_file

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

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
    """Wait until the condition holds; fail after 30 s."""
    async with asyncio.timeout(30):
        while True:
            if condition():
                return
            await asyncio.sleep(0.002)


async def wait_for_all_workers(workers: DecoderPool) -> None:
    """Wait until all workers run, and check that they respond correctly."""
    await until(lambda: workers.stats().idle == workers.concurrency, "workers were not replaced")
    for tag in range(4):
        assert tag_in(await workers.decode(tagged_image(tag), fit=FIT)) == tag


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def list_sizes(folder: Path) -> list[tuple[str, int]]:
    """Return the names and sizes in bytes of a folder's files."""
    return [(path.name, path.stat().st_size) for path in folder.iterdir()]


def list_names(folder: str) -> set[str]:
    """Return the names in a folder."""
    return {path.name for path in Path(folder).iterdir()}


def libraries(pid: int) -> str:
    """Return the memory map of a process, with the files that it has mapped."""
    return Path(f"/proc/{pid}/maps").read_text(encoding="ascii")


def start_agent() -> tuple[subprocess.Popen[str], list[int]]:
    """Start an agent whose two workers hang; return it and the pids of its decoder processes."""
    agent = subprocess.Popen([sys.executable, "-c", AGENT], stdout=subprocess.PIPE, text=True)
    assert agent.stdout is not None
    with agent.stdout as output:
        return agent, [int(pid) for pid in output.readline().split()]


def status(pid: int, name: str) -> int:
    """Return a value of /proc/PID/status, in kB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise KeyError(name)


# --- correct results -------------------------------------------------------------------------


@pytest.mark.parametrize("fit", [(640, 640), (512, 1024), None])
@pytest.mark.parametrize("name", ["RG1_UNCI.dcm", "RG1_J2KI.dcm", "RG1_J2KR.dcm"])
async def test_a_study_is_decoded_exactly_as_in_process(
    workers: DecoderPool, name: str, fit: tuple[int, int] | None
) -> None:
    data = pydicom_file(name).read_bytes()
    expected, context = read_study(data, fit=fit)
    decoded = await workers.decode(memoryview(data), fit=fit)
    for field in fields(Radiograph):
        one, other = getattr(expected, field.name), getattr(decoded.radiograph, field.name)
        is_equal = np.array_equal(one, other) if field.name == "pixels" else one == other
        assert is_equal, field.name
    assert decoded.radiograph.pixels.dtype == np.uint8
    assert decoded.radiograph.pixels.flags.c_contiguous
    assert decoded.radiograph.pixels.flags.owndata
    assert decoded.context == context
    assert context.patient_id


async def test_starting_twice_starts_no_more_workers(workers: DecoderPool) -> None:
    pids = workers.stats().pids
    await workers.start()
    assert workers.stats().pids == pids


async def test_there_is_room_to_enlarge_a_small_image() -> None:
    few = DecoderPool(Limits(max_pixels=SIDE * SIDE), DecodePolicy(workers=1))
    await few.start()
    try:
        decoded = await few.decode(tagged_image(3), fit=(640, 640))
    finally:
        await few.close()
    assert decoded.radiograph.pixels.shape == (640, 640)


async def test_real_rasters_are_decoded_exactly_as_in_process(
    workers: DecoderPool, radiographs: list[Path]
) -> None:
    for file in radiographs[:6]:
        data = file.read_bytes()
        expected, _context = read_study(data, fit=(640, 640))
        decoded = await workers.decode(data, fit=(640, 640))
        np.testing.assert_array_equal(decoded.radiograph.pixels, expected.pixels)


@pytest.mark.parametrize(
    "data",
    [b"", b"no image at all", pydicom_file("RG3_UNCI.dcm").read_bytes(), tagged_image(3)[:-40]],
    ids=["empty", "text", "ankle", "cut off"],
)
async def test_a_refusal_arrives_as_it_was_raised(workers: DecoderPool, data: bytes) -> None:
    with pytest.raises(StudyImageRefused) as expected:
        read_study(data)
    before = workers.stats().pids
    with pytest.raises(StudyImageRefused) as there:
        await workers.decode(data, fit=FIT)
    for name in ("code", "message", "hint"):
        assert getattr(there.value, name) == getattr(expected.value, name)
    assert workers.stats().pids == before


async def test_any_error_of_the_agent_keeps_its_type(workers: DecoderPool) -> None:
    with pytest.raises(EngineFailed) as raised:
        await workers.decode(make_hostile_file("own-error", b""))
    assert (raised.value.code, raised.value.hint) == (ErrorCode.INTERNAL, "A hint.")


async def test_a_bugs_error_names_the_line_but_not_the_headers_content(
    workers: DecoderPool,
) -> None:
    with pytest.raises(DecoderFailed, match=r"LookupError at hostile_reader\.py:\d+") as raised:
        await workers.decode(make_hostile_file("bug", b""))
    assert "Doe" not in str(raised.value)
    await wait_for_all_workers(workers)


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
async def test_a_crash_costs_one_image_its_result(
    workers: DecoderPool, command: str, how: str
) -> None:
    before = workers.stats()
    image = tagged_image(5)
    crash, *others = await asyncio.gather(
        workers.decode(make_hostile_file(command, image), fit=FIT),
        *(workers.decode(image, fit=FIT) for _ in range(6)),
        return_exceptions=True,
    )
    assert isinstance(crash, DecoderFailed)
    assert how in crash.message
    assert [tag_in(other) for other in others if not isinstance(other, BaseException)] == [5] * 6
    await wait_for_all_workers(workers)
    assert workers.stats().replaced == before.replaced + 1
    assert len(set(workers.stats().pids) & set(before.pids)) == 1


async def test_a_memory_bomb_is_an_error_and_the_agent_keeps_running(workers: DecoderPool) -> None:
    with pytest.raises(DecoderFailed, match="more memory than is allowed"):
        await workers.decode(make_hostile_file("bomb", tagged_image(0)))
    await wait_for_all_workers(workers)


@pytest.mark.parametrize("command", ["hang", "hang-native"])
async def test_a_hang_ends_with_its_timeout(workers: DecoderPool, command: str) -> None:
    hang = asyncio.create_task(
        workers.decode(make_hostile_file(command, tagged_image(0)), timeout_s=0.2)
    )
    for tag in range(6):
        assert tag_in(await workers.decode(tagged_image(tag), fit=FIT)) == tag
    with pytest.raises(DecoderFailed, match=r"not done with this image in 0\.2 s"):
        await hang
    await wait_for_all_workers(workers)


async def test_a_worker_that_is_killed_while_it_decodes_fails_only_its_image(
    workers: DecoderPool, tmp_path: Path
) -> None:
    before = set(workers.stats().pids)
    slow = [
        asyncio.create_task(
            workers.decode(
                make_hostile_file(f"start {tmp_path / str(tag)}", tagged_image(tag)), fit=FIT
            )
        )
        for tag in (1, 2)
    ]
    waiting = asyncio.create_task(workers.decode(tagged_image(9), fit=FIT))
    await until(lambda: len(list_sizes(tmp_path)) == 2, "both have started")
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    ends = await asyncio.gather(*slow, return_exceptions=True)
    failed = [end for end in ends if isinstance(end, BaseException)]
    (answered,) = (end for end in ends if not isinstance(end, BaseException))
    assert [isinstance(end, DecoderFailed) and "SIGKILL" in end.message for end in failed] == [True]
    assert tag_in(answered) == 1 + ends.index(answered)
    assert tag_in(await waiting) == 9
    await wait_for_all_workers(workers)
    assert victim not in workers.stats().pids


async def test_idle_workers_that_die_are_replaced(
    workers: DecoderPool,
) -> None:
    before = workers.stats()
    for pid in before.pids:
        os.kill(pid, signal.SIGKILL)
    answers = await asyncio.gather(
        *(workers.decode(tagged_image(tag), fit=FIT) for tag in range(8)), return_exceptions=True
    )
    # A worker that received its image at the moment of its death may have taken it along.
    assert sum(isinstance(answer, DecoderFailed) for answer in answers) <= len(before.pids)
    for tag, answer in enumerate(answers):
        if not isinstance(answer, BaseException):
            assert tag_in(answer) == tag
    await wait_for_all_workers(workers)
    assert not set(before.pids) & set(workers.stats().pids)


async def test_a_killed_zygote_is_started_again(workers: DecoderPool) -> None:
    before = workers.stats()
    assert before.zygote_pid is not None
    os.kill(before.zygote_pid, signal.SIGKILL)
    await until(lambda: workers.stats().zygote_pid not in {None, before.zygote_pid}, "a new one")
    await wait_for_all_workers(workers)
    assert not [pid for pid in before.pids if is_running(pid)]


# --- cancellation ---------------------------------------------------------------------------


async def test_a_late_response_is_discarded_and_its_worker_reused(
    workers: DecoderPool,
) -> None:
    before = workers.stats()
    late = [
        asyncio.create_task(
            workers.decode(make_hostile_file("sleep 0.03", tagged_image(7)), fit=FIT)
        )
        for _ in range(2)
    ]
    await until(lambda: workers.stats().idle == 0, "both have started")
    for task in late:
        task.cancel()
    await asyncio.wait(late)
    for tag in range(8, 12):
        assert tag_in(await workers.decode(tagged_image(tag), fit=FIT)) == tag
    await wait_for_all_workers(workers)
    assert workers.stats().pids == before.pids
    assert workers.stats().decoded >= before.decoded + 2 + 4


async def test_a_cancelled_request_that_hangs_is_killed(workers: DecoderPool) -> None:
    before = workers.stats()
    hang = asyncio.create_task(workers.decode(make_hostile_file("hang", tagged_image(0))))
    await until(lambda: workers.stats().idle == 1, "it has started")
    hang.cancel()
    await asyncio.wait([hang])
    assert hang.cancelled()
    await until(lambda: workers.stats().replaced == before.replaced + 1, "it is replaced")
    await wait_for_all_workers(workers)
    assert workers.stats().failures["abandoned"] == before.failures.get("abandoned", 0) + 1


async def test_a_deadline_that_passes_while_waiting_for_a_worker_is_an_error(
    workers: DecoderPool,
) -> None:
    before = workers.stats()
    busy = [
        asyncio.create_task(workers.decode(make_hostile_file("sleep 1", tagged_image(1)), fit=FIT))
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
    await wait_for_all_workers(workers)
    assert workers.stats().pids == before.pids


async def test_requests_may_be_cancelled_while_they_wait_for_a_worker(workers: DecoderPool) -> None:
    slow = [
        asyncio.create_task(
            workers.decode(make_hostile_file("sleep 0.05", tagged_image(1)), fit=FIT)
        )
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
    await wait_for_all_workers(workers)


# --- a compromised worker --------------------------------------------------------------------

FACTS = {
    "rows": 256, "columns": 256, "format": "png", "bits_stored": 8, "view": "", "laterality": "",
    "body_part": "", "manufacturer": "", "photometric": "", "transfer_syntax": "", "spacing": None,
}  # fmt: skip
FORGED = {
    "not json": "nonsense",
    "an old sequence": json.dumps(
        {"sequence": 1, "shape": [256, 256], "facts": FACTS, "warnings": [], "context": {}}
    ),
    "nothing": json.dumps({"sequence": 1}),
    "unknown fields": json.dumps({"sequence": 1, "command": "fork"}),
    "deep": "[" * 20_000,
}


@pytest.mark.parametrize("packet", FORGED.values(), ids=FORGED.keys())
async def test_a_forged_response_is_refused_and_its_worker_killed(
    workers: DecoderPool, packet: str
) -> None:
    before = workers.stats()
    with pytest.raises(DecoderFailed, match="response"):
        await workers.decode(make_hostile_file(f"send {packet}", tagged_image(2)), fit=FIT)
    await wait_for_all_workers(workers)
    assert workers.stats().replaced == before.replaced + 1
    assert workers.stats().failures["protocol_violation"] > before.failures.get(
        "protocol_violation", 0
    )


async def test_a_pickle_is_never_loaded(workers: DecoderPool, tmp_path: Path) -> None:
    written_by_pickle = tmp_path / "made by a pickle"
    with pytest.raises(DecoderFailed, match="cannot be read"):
        await workers.decode(make_hostile_file(f"send-pickle {written_by_pickle}", tagged_image(2)))
    assert not list_names(str(tmp_path))
    await wait_for_all_workers(workers)


async def test_a_response_in_advance_never_reaches_the_next_request() -> None:
    """The forged response has the right sequence, so the true one is left for the next request.

    If it is there already, the worker is replaced first; if it comes later, it is refused.
    """
    async with started(DecodePolicy(workers=1)) as workers:
        forged = {"sequence": 1, "error": {"type": "StudyImageRefused", "code": "corrupt",
                  "message": "forged", "hint": ""}}  # fmt: skip
        with pytest.raises(StudyImageRefused, match="forged"):
            await workers.decode(
                make_hostile_file(f"send {json.dumps(forged)}", tagged_image(1)), fit=FIT
            )
        (end,) = await asyncio.gather(
            workers.decode(tagged_image(2), fit=FIT), return_exceptions=True
        )
        if isinstance(end, BaseException):
            assert "another request" in str(end)
        else:
            assert tag_in(end) == 2
        await wait_for_all_workers(workers)
        assert workers.stats().replaced == 1


async def test_a_worker_writes_no_files_and_has_neither_descriptors_nor_secrets(
    workers: DecoderPool, tmp_path: Path
) -> None:
    await workers.decode(make_hostile_file(f"write {tmp_path / 'leak'}", tagged_image(0)))
    assert not any(size_bytes for _name, size_bytes in list_sizes(tmp_path))
    with pytest.raises(EngineFailed) as descriptors:
        await workers.decode(make_hostile_file("descriptors", b""))
    # The three standard streams, its channel and its memory.
    assert len(json.loads(descriptors.value.message)) == 5
    with pytest.raises(EngineFailed) as environment:
        await workers.decode(make_hostile_file("environment", b""))
    assert "HILUM_EDGE__SECRET" not in json.loads(environment.value.message)


# --- the processes --------------------------------------------------------------------------


async def test_processes_are_small_and_hold_no_engine_and_no_transport(
    workers: DecoderPool,
) -> None:
    zygote_pid = workers.stats().zygote_pid
    assert zygote_pid is not None
    mapped = libraries(zygote_pid)
    assert "cv2" in mapped
    assert not [name for name in ("openvino", "grpc", "onnxruntime", "torch") if name in mapped]
    for pid in (zygote_pid, *workers.stats().pids):
        # RssAnon counts memory shared with the zygote too, so this is an upper bound.
        assert status(pid, "RssAnon") < 100_000
        assert status(pid, "Threads") == 1


async def test_the_agent_itself_imports_no_decoder() -> None:
    program = (
        "import sys, edge_agent.decoding.pool\n"
        "print(*{name.split('.')[0] for name in sys.modules} & {'cv2', 'imagecodecs', 'pydicom'})"
    )
    completed = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not completed.stdout.strip()


async def test_decoder_processes_ignore_stop_signals(workers: DecoderPool) -> None:
    stats = workers.stats()
    assert stats.zygote_pid is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for pid in (stats.zygote_pid, *stats.pids):
            os.kill(pid, number)
    for tag in range(6):
        assert tag_in(await workers.decode(tagged_image(tag), fit=FIT)) == tag
    assert workers.stats().pids == stats.pids


AGENT = """
import asyncio, sys
from edge_agent.imaging import Limits
from edge_agent.decoding.pool import DecodePolicy, DecoderPool
from tests.support.images.hostile_reader import PATH, make_hostile_file

async def main():
    workers = DecoderPool(Limits(), DecodePolicy(workers=2, timeout_s=600), reader=PATH)
    await workers.start()
    tasks = [asyncio.create_task(workers.decode(make_hostile_file(how, b"")))
             for how in ("hang", "hang-native")]
    while workers.stats().idle:
        await asyncio.sleep(0.01)
    stats = workers.stats()
    print(stats.zygote_pid, *stats.pids, flush=True)
    await asyncio.wait(tasks)

asyncio.run(main())
"""


async def test_no_process_is_left_when_the_agent_is_killed() -> None:
    shared_before = list_names("/dev/shm")  # noqa: S108  # where named segments would be
    agent, pids = await asyncio.to_thread(start_agent)
    try:
        assert len(pids) == 3
        assert all(is_running(pid) for pid in pids)
    finally:
        agent.kill()
        agent.wait()
    await until(lambda: not any(is_running(pid) for pid in pids), "all processes have ended")
    assert list_names("/dev/shm") <= shared_before  # noqa: S108  # as above


async def test_a_pool_that_is_not_running_is_not_ready() -> None:
    workers = DecoderPool(Limits(), POLICY, reader=PATH)
    with pytest.raises(NotReady):
        await workers.decode(tagged_image(0))
    await workers.close()


async def test_closing_ends_all_processes_and_fails_all_requests() -> None:
    async with started() as workers:
        pids = (workers.stats().zygote_pid, *workers.stats().pids)
        tasks = [
            asyncio.create_task(workers.decode(make_hostile_file("hang", b""))) for _ in range(5)
        ]
        await until(lambda: workers.stats().idle == 0, "all are busy")
        await workers.close()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, DecoderFailed | NotReady) for end in ends)
        assert sum(isinstance(end, NotReady) for end in ends) >= 3
        assert not [pid for pid in pids if pid is not None and is_running(pid)]
        with pytest.raises(NotReady):
            await workers.decode(tagged_image(0))


async def test_a_failed_start_gives_the_reason_and_leaves_nothing_behind() -> None:
    workers = DecoderPool(Limits(), POLICY, reader="tests.support.images.hostile_reader:absent")
    with pytest.raises(DecoderFailed, match="has no attribute 'absent'"):
        await workers.start()
    assert workers.stats().zygote_pid is None


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
        return len(list_names("/proc/self/fd")), [status(pid, "RssAnon") for pid in pids]

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
                await workers.decode(make_hostile_file("exit", b""))
        await wait_for_all_workers(workers)

    await crashes(2)
    before = len(list_names("/proc/self/fd"))
    await crashes(20)
    assert len(list_names("/proc/self/fd")) == before


async def test_no_response_ever_reaches_another_request() -> None:
    tally = await campaign(500, seed=int(time.time()), kill_all_every=4)
    assert not tally.wrong
    assert sum(tally.ends.values()) == 500
    assert tally.ends["answered"] > 250
    assert tally.ends["failed"] > 10
    assert tally.ends["cancelled"] > 10
    assert set(tally.kills) == {"one", "all"}
