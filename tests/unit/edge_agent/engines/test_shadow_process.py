"""A shadow model detects in a process of its own; what goes wrong there is an error here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.core.findings import Box, Finding, decode_findings
from edge_agent.core.geometry import Letterbox
from edge_agent.core.radiograph import ImageFacts
from edge_agent.engines import shadow_process
from edge_agent.engines.base import Pixels
from edge_agent.engines.bundle import Bundle, starter_bundle_path
from edge_agent.engines.engine_process import ProcessLimits
from edge_agent.engines.golden import read_golden_image
from edge_agent.engines.runtimes.factory import open_engine
from edge_agent.engines.selection import in_service
from edge_agent.engines.selection.candidates import build_job
from edge_agent.engines.selection.probe import ProbeJob
from edge_agent.engines.shadow_process import ShadowModel, ShadowOptions
from edge_agent.errors import ConfigInvalid, EngineFailed
from tests.support.agents.tagged import eventually
from tests.support.engines import bundles, hostile
from tests.support.engines.priority import run_at_normal_priority
from tests.support.engines.variants import bundle_with, variant

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
COMMANDS = (
    "hangs", "illegal", "eats", "blind", "fp32", "reports", "hangs-later", "crashes-later",
    "eats-later", "fails-later",
)  # fmt: skip
MEMORY = 400 << 20


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("bundle") / "a.bundle"
    return bundle_with(path, *(variant(f"openvino-{command}") for command in COMMANDS))


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ShadowOptions]:
    """Return a function that makes options, under which variants misbehave as they are named."""

    def build_hostile_job(*args: object) -> ProbeJob:
        return replace(build_job(*args), opener=hostile.PATH)  # type: ignore[arg-type]

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run_at_normal_priority(monkeypatch)
    monkeypatch.setattr(shadow_process, "build_job", build_hostile_job)

    def make(command: str, **changes: object) -> ShadowOptions:
        made = ShadowOptions(tmp_path / "cache", MEMORY, f"openvino-{command}")
        return replace(made, **changes)  # type: ignore[arg-type]

    return make


def facts(rows: int = bundles.SIZE, columns: int = bundles.SIZE) -> ImageFacts:
    return ImageFacts(rows, columns, "png", 8, "", "", "", "", "", "", None)


async def test_a_shadow_detects_from_the_heads_floor_in_original_pixels(
    bundle: Bundle, options: Callable[..., ShadowOptions]
) -> None:
    shadow = await ShadowModel.open(bundle, options("fp32"))
    assert (shadow.manifest, shadow.digest) == (bundle.manifest, bundle.digest)
    assert shadow.variant == bundle.variant("openvino-fp32")
    opened_cpu_s = shadow.cpu_s
    assert opened_cpu_s > 0
    # A score of 0.2 is below the operating point.
    image = bundles.picture((8, 204, (40, 48, 20, 30)), (3, 51, (20, 20, 10, 10)))
    found = await shadow.detect(image, facts(rows=192, columns=192))
    assert [it.index for it in found] == [8, 3]
    assert found[0] == Finding(8, pytest.approx(0.8), Box(60, 66, 100, 126))
    assert found[1].score == pytest.approx(0.2)
    assert await shadow.detect(bundles.picture(), facts()) == ()
    assert shadow.cpu_s > opened_cpu_s
    assert 0 < shadow.peak_bytes < MEMORY
    await shadow.close()
    await shadow.close()
    with pytest.raises(EngineFailed, match="closed"):
        await shadow.detect(image, facts())


async def test_a_shadow_is_idle_bounded_and_computes_on_one_thread(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, jobs = [], []

    class NoProcess:
        def __init__(self, serve: str, chosen: ProcessLimits) -> None:
            limits.append(chosen)

        def send(self, job: dict[str, Any]) -> None:
            jobs.append(job)

        def receive(self, limit_s: float, action: str) -> dict[str, Any]:
            return {"problems": "", "max_batch": 1}

        def kill(self) -> None: ...

        end = kill

    monkeypatch.setattr(shadow_process, "EngineProcess", NoProcess)
    shadow = await ShadowModel.open(bundle, ShadowOptions(tmp_path, MEMORY, "openvino-fp32"))
    await shadow.close()
    assert limits == [ProcessLimits(is_idle=True, memory_bytes=MEMORY)]
    assert [job["threads"] for job in jobs] == [1]


async def test_an_image_of_another_form_is_refused(
    bundle: Bundle, options: Callable[..., ShadowOptions]
) -> None:
    shadow = await ShadowModel.open(bundle, options("fp32"))
    for wrong in (np.zeros((96, 95), np.uint8), np.zeros((96, 96), np.uint16)):
        with pytest.raises(EngineFailed, match=r"the shadow takes u8 \(96, 96\)"):
            await shadow.detect(wrong, facts())  # type: ignore[arg-type]
    await shadow.close()


@pytest.mark.parametrize(
    ("command", "changes", "problem"),
    [
        ("hangs", {"open_s": 0.0}, "openvino-hangs did not get ready in time"),
        ("illegal", {}, r"openvino-illegal crashed its process \(SIGILL\)"),
        ("eats", {}, "openvino-eats needs more than 400 MiB"),
        ("blind", {}, r"openvino-blind disagrees with the golden cases \(mass: .*\)"),
    ],
)
async def test_a_candidate_that_cannot_be_used_is_an_error(
    bundle: Bundle,
    options: Callable[..., ShadowOptions],
    command: str,
    changes: dict[str, object],
    problem: str,
) -> None:
    with pytest.raises(EngineFailed, match=f"cannot run beside the model that serves: {problem}"):
        await ShadowModel.open(bundle, options(command, **changes))


async def test_the_first_variant_that_works_is_taken(
    bundle: Bundle, options: Callable[..., ShadowOptions]
) -> None:
    """The variants before it crash or are wrong; the one that hangs is left out."""
    known = bundle.manifest.engines[1:]
    without_hanging = replace(
        bundle, manifest=bundle.manifest.model_copy(update={"engines": known})
    )
    shadow = await ShadowModel.open(without_hanging, options("fp32", variant="auto"))
    assert shadow.variant.name == "openvino-fp32"
    await shadow.close()
    with pytest.raises(ConfigInvalid):
        await ShadowModel.open(bundle, options("tpu"))


@pytest.mark.parametrize(
    ("command", "changes", "problem"),
    [
        ("hangs-later", {"detect_s": 0.2}, "did not answer in time"),
        ("crashes-later", {}, r"crashed its process \(SIGABRT\)"),
        ("eats-later", {}, "needs more than 400 MiB"),
    ],
)
async def test_a_shadow_that_misbehaves_later_ends_and_stays_ended(
    bundle: Bundle,
    options: Callable[..., ShadowOptions],
    command: str,
    changes: dict[str, object],
    problem: str,
) -> None:
    shadow = await ShadowModel.open(bundle, options(command, **changes))
    for _ in range(2):
        with pytest.raises(EngineFailed, match=f"the shadow openvino-{command} {problem}"):
            await shadow.detect(bundles.MASS, facts())
    await shadow.close()


async def test_an_error_of_the_runtime_does_not_end_the_shadow(
    bundle: Bundle, options: Callable[..., ShadowOptions]
) -> None:
    shadow = await ShadowModel.open(bundle, options("fails-later"))
    for _ in range(2):
        with pytest.raises(EngineFailed, match="failed: an error of the runtime"):
            await shadow.detect(bundles.MASS, facts())
    await shadow.close()


async def test_a_cancelled_call_does_not_mix_up_the_answers(
    bundle: Bundle, options: Callable[..., ShadowOptions]
) -> None:
    shadow = await ShadowModel.open(bundle, options("fp32"))
    clear, mass = bundles.picture(), bundles.MASS
    expected = await shadow.detect(mass, facts())
    for _ in range(10):
        cancelled = asyncio.create_task(shadow.detect(clear, facts()))
        await asyncio.sleep(0)  # It is sent before it is cancelled.
        cancelled.cancel()
        assert await shadow.detect(mass, facts()) == expected
    await shadow.close()


async def test_closing_ends_a_call_in_progress_and_one_that_waits(
    bundle: Bundle, options: Callable[..., ShadowOptions]
) -> None:
    shadow = await ShadowModel.open(bundle, options("hangs-later"))
    calls = [asyncio.create_task(shadow.detect(bundles.MASS, facts())) for _ in range(2)]
    await asyncio.sleep(0)
    await shadow.close()
    for call in calls:
        with pytest.raises(EngineFailed):
            await call


async def test_a_cancelled_opening_leaves_no_process(
    bundle: Bundle, options: Callable[..., ShadowOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[ShadowModel] = []
    create = ShadowModel.__init__

    def remember(self: ShadowModel, *args: object) -> None:
        create(self, *args)  # type: ignore[arg-type]
        started.append(self)

    monkeypatch.setattr(ShadowModel, "__init__", remember)
    opening = asyncio.create_task(ShadowModel.open(bundle, options("hangs")))
    await eventually(lambda: bool(started) and started[0]._process is not None)
    process = started[0]._process
    assert process is not None
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert process.exit_status is not None


async def test_without_the_memory_that_it_may_take_no_process_is_started(
    bundle: Bundle, options: Callable[..., ShadowOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_service, "available_memory_bytes", lambda: 100 << 20)
    monkeypatch.setattr(shadow_process, "EngineProcess", lambda *_: pytest.fail("started"))
    with pytest.raises(EngineFailed, match="may need 400 MiB of memory, of which 100 MiB are"):
        await ShadowModel.open(bundle, options("fp32"))


async def test_two_shadows_at_once_do_not_disturb_each_other(
    bundle: Bundle, options: Callable[..., ShadowOptions]
) -> None:
    one, other = await asyncio.gather(
        ShadowModel.open(bundle, options("fp32")),
        ShadowModel.open(bundle, options("crashes-later")),
    )
    failing = asyncio.create_task(other.detect(bundles.MASS, facts()))
    assert len(await one.detect(bundles.MASS, facts())) == 1
    with pytest.raises(EngineFailed, match="SIGABRT"):
        await failing
    assert len(await one.detect(bundles.MASS, facts())) == 1
    await one.close()
    await other.close()


async def test_the_starters_findings_are_those_of_the_agents_own_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run_at_normal_priority(monkeypatch)
    starter = Bundle.open(starter_bundle_path())
    chosen = ShadowOptions(tmp_path, 2 << 30, "onnxruntime-fp32")
    shadow = await ShadowModel.open(starter, chosen)
    spec, head = starter.manifest.input, starter.manifest.head
    engine = open_engine(starter, starter.variant("onnxruntime-fp32"), threads=1)
    for case in starter.golden.cases[:2]:
        pixels: Pixels = read_golden_image(starter.read(case.image), spec)
        box = Letterbox.fit(2 * spec.height, 2 * spec.width, spec.height, spec.width)
        floor = [head.score_floor] * len(starter.manifest.findings)
        expected = decode_findings(engine.infer(pixels[None, None])[0], box, head, floor)
        found = await shadow.detect(pixels, facts(2 * spec.height, 2 * spec.width))
        assert found == expected
        assert found
    await shadow.close()
