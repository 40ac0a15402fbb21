"""`hilum-edge bench`: measure this machine with its bundle: decoding, engines, gRPC, memory."""

from __future__ import annotations

import asyncio
import io
import json
import os
import statistics
import sys
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
from edge_agent.cli.console import open_stderr
from edge_agent.cli.exit_codes import EXIT_OK, report_errors
from edge_agent.cli.input_files import UsageError
from edge_agent.cli.settings import settings_from_options
from edge_agent.config import AccessSettings, Settings, TlsSettings
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.golden import read_golden_image
from edge_agent.engines.hardware import Hardware
from edge_agent.engines.selection.select import select_engine
from edge_agent.errors import ConfigInvalid
from edge_agent.system.logging import configure_logging
from edge_agent.system.processes import memory_kb, process_tree
from hilum.client import AsyncClient, Result

ROUNDS: Final = 30
WARM_UP_ROUNDS: Final = 3
TIMEOUT_S: Final = 120.0
ROWS, COLUMNS = 2500, 2048
"""The synthetic radiograph's size in pixels, which is a large one's."""


@report_errors
def bench_command(
    *,
    config: Path | None,
    bundle: Path | None,
    image: Path | None,
    as_json: bool,
    output: Path | None,
) -> int:
    """Measure this machine and write the report; return the exit status.

    Args:
        config: a settings file.
        bundle: the bundle to use instead of the settings' own.
        image: a study image to measure with; by default a synthetic one.
        as_json: write JSON instead of Markdown.
        output: the file to write to instead of standard output.
    """
    settings = settings_from_options(config, bundle)
    if output is not None and not output.parent.is_dir():
        raise UsageError(f"--output {output}: there is no folder {output.parent}.")
    configure_logging("WARNING")  # The agent that is measured would log that it serves.
    open_stderr().print("Measuring; this takes a minute or two.")
    report = asyncio.run(run_benchmark(settings, image))
    as_json = as_json or (output is not None and output.suffix == ".json")
    text = json.dumps(report.as_json(), indent=2) + "\n" if as_json else report.as_markdown()
    if output is None:
        sys.stdout.write(text)
        return EXIT_OK
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigInvalid(f"The report {output} cannot be written: {error.strerror}.") from None
    return EXIT_OK


@dataclass(frozen=True, slots=True)
class EngineRow:
    """An engine variant's median time for one image in milliseconds, or why it cannot be used."""

    name: str
    median_ms: float | None
    problem: str


@dataclass(frozen=True, slots=True)
class MachineReport:
    """The measurements of one machine.

    `_ms` are medians. Memory is the proportional set size of all processes together.
    """

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
        """Return the report for programs."""
        return asdict(self)

    def as_markdown(self) -> str:
        """Return the report for people."""
        engines = "\n".join(
            f"| {row.name} | {'' if row.median_ms is None else f'{row.median_ms:.1f} ms'} "
            f"| {row.problem} |"
            for row in self.engines
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
| of which neither of the two | {self.round_trip_ms - self.decode_ms - self.infer_ms:.1f} ms |
| several at once | {self.images_per_s:.1f} images/s |
| memory, ready | {self.memory_idle_mb:.0f} MB |
| memory, afterwards | {self.memory_after_mb:.0f} MB |
"""


async def run_benchmark(settings: Settings, image: Path | None = None) -> MachineReport:
    """Measure this machine, which takes about a minute. Nothing else should be running on it.

    Args:
        settings: the bundle, the engine, threads and workers to measure. Folders and ports are
            replaced, so that an agent that serves on this machine is not disturbed.
        image: a study image to send; by default a synthetic one.

    Returns:
        The measurements.

    Raises:
        HilumError: the bundle or the engine cannot be used.
        DetectError: the image is refused.
    """
    title = image.name if image else f"uncompressed DICOM, {COLUMNS} x {ROWS}, synthetic"
    bundle = open_bundle(settings)
    data = await asyncio.to_thread(image.read_bytes) if image else make_dicom(bundle)
    with tempfile.TemporaryDirectory(prefix="hilum-bench-") as folder:
        isolated = isolate_settings(settings, Path(folder))
        selection = await asyncio.to_thread(
            select_engine,
            bundle,
            isolated.cache_dir,
            settings.engine.threads,
            wanted=settings.engine.variant,
        )
        measured = await _measure_agent(isolated, data)
    hardware = Hardware.detect()
    manifest = bundle.manifest
    return MachineReport(
        hilum=version("hilum"),
        processor=hardware.cpu,
        cores=hardware.cores,
        bundle=f"{manifest.name}-{manifest.version} ({bundle.digest[:12]})",
        engine=selection.variant.name,
        engine_reason=selection.reason,
        engines=tuple(EngineRow(m.variant, m.median_ms, m.problem) for m in selection.measured),
        image=title,
        **measured,
    )


def isolate_settings(settings: Settings, folder: Path) -> Settings:
    """Return settings that share no folder, port or key with an agent that serves here.

    Args:
        settings: the serving agent's.
        folder: where everything is written instead.

    Returns:
        The same bundle, engine and workers, on free ports of 127.0.0.1 without TLS.
    """
    local = {"host": "127.0.0.1", "port": 0}
    return settings.model_copy(
        update={
            "cache_dir": folder / "cache",
            "state_dir": folder / "state",
            "grpc": settings.grpc.model_copy(update=local),
            "http": settings.http.model_copy(update=local),
            "tls": TlsSettings(),
            "access": AccessSettings(),
            "audit": settings.audit.model_copy(update={"folder": None}),
        }
    )


async def _measure_agent(settings: Settings, data: bytes) -> dict[str, float]:
    started = time.perf_counter()
    agent = Agent(settings)
    await agent.start()
    try:
        await agent.load()
        start_s = time.perf_counter() - started
        idle_mb = measure_memory_mb()
        async with AsyncClient(agent.address) as client:
            results: list[Result] = []

            async def detect() -> None:
                results.append(await client.detect(data, timeout_s=TIMEOUT_S))

            round_trip_ms = await _median_ms(detect)
            images_per_s = await _images_per_s(
                client, data, concurrency=settings.decode.workers + 2
            )
        timings = [result.timings for result in results[WARM_UP_ROUNDS:]]
        return {
            "start_s": start_s,
            "decode_ms": statistics.median(stages.decode_ms for stages in timings),
            "infer_ms": statistics.median(stages.infer_ms for stages in timings),
            "round_trip_ms": round_trip_ms,
            "images_per_s": images_per_s,
            "memory_idle_mb": idle_mb,
            "memory_after_mb": measure_memory_mb(),
        }
    finally:
        await agent.stop()


async def _median_ms(detect: Callable[[], Awaitable[None]]) -> float:
    times_ms = []
    for _ in range(WARM_UP_ROUNDS + ROUNDS):
        start = time.perf_counter()
        await detect()
        times_ms.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times_ms[WARM_UP_ROUNDS:])


async def _images_per_s(client: AsyncClient, data: bytes, *, concurrency: int) -> float:
    images = [(number, data) for number in range(2 * ROUNDS)]
    start = time.perf_counter()
    async for _number, outcome in client.detect_many(images, concurrency=concurrency):
        if not isinstance(outcome, Result):
            raise outcome
    return len(images) / (time.perf_counter() - start)


def measure_memory_mb(pid: int | None = None) -> float:
    """Return the proportional set size of a process and all its descendants, in MB.

    None means this process.
    """
    return sum(map(memory_kb, process_tree(pid or os.getpid()))) / 1e3


def make_dicom(bundle: Bundle) -> bytes:
    """Return the bundle's first golden case, which is synthetic, as a computed radiograph.

    It is PA, 12 bits deep, has a VOI window and is as large as real ones, so that the content check
    accepts it and decoding costs what it costs for a real radiograph.
    """
    picture = read_golden_image(bundle.read(bundle.golden.cases[0].image), bundle.manifest.input)
    pixels = cv2.resize(picture, (COLUMNS, ROWS), interpolation=cv2.INTER_CUBIC).astype("<u2") << 4
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    attributes = {
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
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = pixels.tobytes()
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()
