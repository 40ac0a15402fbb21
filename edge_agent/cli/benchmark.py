"""What this box does with its own bundle: decoding, engines, a round trip, memory."""

from __future__ import annotations

import asyncio
import io
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import cv2
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from edge_agent.app.agent import Agent
from edge_agent.app.models import open_bundle
from edge_agent.config import AccessSettings, Settings, TlsSettings
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.golden import read_picture
from edge_agent.engines.hardware import Hardware
from edge_agent.engines.selection.select import choose
from edge_agent.system.processes import family, memory_kb
from hilum.client import AsyncClient, Result

ROUNDS: Final = 30
WARM_UP: Final = 3
ROWS, COLUMNS = 2500, 2048


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One engine variant: milliseconds for one image, or why it is not used."""

    name: str
    median_ms: float | None
    problem: str


@dataclass(frozen=True, slots=True)
class BoxReport:
    """What was measured. Times are medians in milliseconds, memory in MB (PSS, all processes)."""

    hilum: str
    processor: str
    cores: int
    bundle: str
    engine: str
    engine_reason: str
    engines: tuple[EngineRow, ...]
    image: str
    start_s: float
    decode_ms: float
    infer_ms: float
    round_trip_ms: float
    images_per_s: float
    memory_idle_mb: float
    memory_after_mb: float

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    def as_markdown(self) -> str:
        """For people."""
        engines = "\n".join(
            f"| {it.name} | {'' if it.median_ms is None else f'{it.median_ms:.1f} ms'} "
            f"| {it.problem} |"
            for it in self.engines
        )
        return f"""# hilum-edge bench

hilum {self.hilum}, {self.processor}, {self.cores} cores. Bundle {self.bundle}.
Medians of {ROUNDS}. Research use only.

| engine | one image | problem |
|---|---|---|
{engines}

Runs on {self.engine}: {self.engine_reason}.

| {self.image} | |
|---|---|
| start to ready | {self.start_s:.1f} s |
| decoding | {self.decode_ms:.1f} ms |
| inference | {self.infer_ms:.1f} ms |
| round trip over gRPC | {self.round_trip_ms:.1f} ms |
| of which beside those two | {self.round_trip_ms - self.decode_ms - self.infer_ms:.1f} ms |
| several at once | {self.images_per_s:.1f} images/s |
| memory, ready | {self.memory_idle_mb:.0f} MB |
| memory, afterwards | {self.memory_after_mb:.0f} MB |
"""


async def measure(settings: Settings, image: Path | None = None) -> BoxReport:
    """Measure this box; takes about a minute. Nothing else should be running on it.

    Args:
        settings: which bundle, how many threads and workers; ports are chosen freely.
        image: a study image to send; by default one is made.

    Raises:
        HilumError: the bundle or the engine cannot be used.
        DetectError: the image is refused.
    """
    title = image.name if image else f"uncompressed DICOM, {COLUMNS} x {ROWS}, made here"
    bundle = open_bundle(settings)
    data = await asyncio.to_thread(image.read_bytes) if image else synthetic_dicom(bundle)
    with tempfile.TemporaryDirectory(prefix="hilum-bench-") as folder:
        apart = set_apart(settings, Path(folder))
        choice = await asyncio.to_thread(
            choose,
            bundle,
            apart.cache_dir,
            settings.engine.threads,
            wanted=settings.engine.variant,
        )
        served = await _through_an_agent(apart, data)
    hardware = Hardware.here()
    manifest = bundle.manifest
    return BoxReport(
        hilum=version("hilum"),
        processor=hardware.cpu,
        cores=hardware.cores,
        bundle=f"{manifest.name}-{manifest.version} ({bundle.digest[:12]})",
        engine=choice.variant.name,
        engine_reason=choice.reason,
        engines=tuple(EngineRow(it.variant, it.median_ms, it.problem) for it in choice.measured),
        image=title,
        **served,
    )


def set_apart(settings: Settings, folder: Path) -> Settings:
    """The same agent beside the one that serves: what that one keeps or listens on is left alone.

    Args:
        settings: the serving agent's.
        folder: where everything is written instead.
    """
    here = {"host": "127.0.0.1", "port": 0}
    return settings.model_copy(
        update={
            "cache_dir": folder / "cache",
            "state_dir": folder / "state",
            "grpc": settings.grpc.model_copy(update=here),
            "http": settings.http.model_copy(update=here),
            "tls": TlsSettings(),
            "access": AccessSettings(),
            "audit": settings.audit.model_copy(update={"folder": None}),
        }
    )


async def _through_an_agent(settings: Settings, data: bytes) -> dict[str, float]:
    started = time.perf_counter()
    agent = Agent(settings)
    await agent.start()
    try:
        await agent.load()
        start_s = time.perf_counter() - started
        idle_mb = memory_mb()
        async with AsyncClient(agent.address) as client:
            results: list[Result] = []

            async def ask() -> None:
                results.append(await client.detect(data, timeout_s=120))

            alone_ms = await _median_ms(ask)
            rate = await _images_per_s(client, data, concurrency=settings.decode.workers + 2)
        timed = [it.timings for it in results[WARM_UP:]]
        return {
            "start_s": start_s,
            "decode_ms": statistics.median(it.decode_ms for it in timed),
            "infer_ms": statistics.median(it.infer_ms for it in timed),
            "round_trip_ms": alone_ms,
            "images_per_s": rate,
            "memory_idle_mb": idle_mb,
            "memory_after_mb": memory_mb(),
        }
    finally:
        await agent.stop()


async def _median_ms(ask: Callable[[], Awaitable[None]]) -> float:
    times = []
    for _ in range(WARM_UP + ROUNDS):
        start = time.perf_counter()
        await ask()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[WARM_UP:])


async def _images_per_s(client: AsyncClient, data: bytes, *, concurrency: int) -> float:
    images = [(number, data) for number in range(2 * ROUNDS)]
    start = time.perf_counter()
    async for _number, outcome in client.detect_many(images, concurrency=concurrency):
        if not isinstance(outcome, Result):
            raise outcome
    return len(images) / (time.perf_counter() - start)


def memory_mb(pid: int | None = None) -> float:
    """Proportional set size of a process (None: this one) and all it has started, in MB."""
    return sum(map(memory_kb, family(pid or os.getpid()))) / 1e3


def synthetic_dicom(bundle: Bundle) -> bytes:
    """A picture of no patient, the bundle's own first golden case, as a computed radiograph.

    12 bits, PA, with a window, as large as they come: so that the gate by content takes it and
    decoding costs what it costs every day.
    """
    picture = read_picture(bundle.read(bundle.golden.cases[0].image), bundle.manifest.input)
    pixels = cv2.resize(picture, (COLUMNS, ROWS), interpolation=cv2.INTER_CUBIC).astype("<u2") << 4
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    facts = {
        "SOPClassUID": ComputedRadiographyImageStorage,
        "SOPInstanceUID": "1.2.3",
        "Modality": "CR",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
        "Rows": ROWS,
        "Columns": COLUMNS,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "WindowCenter": "2048",
        "WindowWidth": "4096",
    }
    for keyword, value in facts.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = pixels.tobytes()
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()
