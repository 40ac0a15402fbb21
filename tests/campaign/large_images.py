"""64-megapixel radiographs arriving together: few are decoded at a time, so memory is bounded.

A decoded image takes 64 MB and more. Only as many as there are decode workers are decoded at a
time, and the result is as small as the model's input. So sixteen at once may take more memory than
two for the files as sent, but not for their pixels. Uncompressed files are as large as a file may
be: only as many as fit the budget may wait, and the others are refused immediately.

    python -m tests.campaign.large_images
"""

from __future__ import annotations

import argparse
import asyncio
import io
import sys
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import cv2
import numpy as np

from edge_agent.imaging import read_study
from tests.conftest import pydicom_file
from tests.support.agents.live import LiveAgent, live_agent
from tests.support.images import studies
from tests.support.images.damaged import write_raster
from tests.support.images.known import AgentClient, RequestFailed, are_equal, connect_client
from tests.support.system.processes import ProcessSampler

ROWS, COLUMNS = 8230, 7750
FEW, MANY = 2, 16
SAMPLE_INTERVAL_S: Final = 0.05
COPIES: Final = 3
"""Copies of each file in memory: gRPC's, the message's and the request's own."""
DECODED_MB: Final = ROWS * COLUMNS / 1e6
WAITING_BYTES: Final = 512 << 20
"""The budget of waiting files in this run."""
LONG_TIMEOUTS: Final = {
    # The machine is busy with the callers as well; the speed of decoding is not tested here.
    "HILUM_EDGE__DECODE__TIMEOUT_S": "120",
    "HILUM_EDGE__LIMITS__WAITING_BYTES": f"{WAITING_BYTES}",
}


@dataclass
class Tally:
    """Outcomes of the requests, and peak memory in MB by kind of file."""

    ends: Counter[str] = field(default_factory=Counter)
    peak_mb: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def compare(self, kind: str, size_bytes: int, many: int) -> None:
        """Allow many to take more than few for the files as sent, and for one decoded image."""
        few_mb, many_mb = self.peak_mb[f"{FEW} {kind}"], self.peak_mb[f"{many} {kind}"]
        if many_mb - few_mb > COPIES * (many - FEW) * size_bytes / 1e6 + DECODED_MB:
            self.wrong.append(f"{many} {kind} took {many_mb:.0f} MB, {FEW} {few_mb:.0f}")


def large_files(*kinds: str) -> dict[str, bytes]:
    """Return RG1 enlarged to 64 megapixels: `jpeg`, `png` (8 bits), `dicom` (16, uncompressed)."""
    pixels = read_study(pydicom_file("RG1_UNCI.dcm").read_bytes())[0].pixels
    large = cv2.resize(pixels, (COLUMNS, ROWS), interpolation=cv2.INTER_CUBIC)
    make: dict[str, Any] = {
        "jpeg": lambda: write_raster(large, "JPEG", quality=90),
        "png": lambda: write_raster(large, "PNG", compress_level=1),
        "dicom": lambda: studies.dicom(large.astype(np.uint16) << 8, bits=16),
    }
    return {kind: make[kind]() for kind in kinds}


async def campaign(
    *, kinds: Sequence[str] = ("jpeg", "png"), many: int = MANY, most: bool = True
) -> Tally:
    """Run the campaign; `wrong` of the tally must be empty. `most`: uncompressed files, too."""
    tally = Tally()
    files = large_files(*kinds, *(["dicom"] if most else []))
    with live_agent(environment=LONG_TIMEOUTS) as agent:
        async with connect_client(agent) as client:
            for kind in kinds:
                image = files[kind]
                for number in (FEW, many):
                    requests = [
                        client.detect_over_grpc(image, timeout_s=300) for _ in range(number)
                    ]
                    await _together(agent, tally, f"{number} {kind}", requests)
                tally.compare(kind, len(image), many)
            rendered = [client.render(files[kinds[0]]) for _ in range(many // 2)]
            await _together(agent, tally, f"{many // 2} pictures", rendered)
            if most:
                await _uncompressed(agent, client, tally, files["dicom"])
        if agent.stop() != 0:
            tally.wrong.append("the agent did not exit with 0 when stopped")
    return tally


async def _uncompressed(agent: LiveAgent, client: AgentClient, tally: Tally, image: bytes) -> None:
    """Send over gRPC: each is answered, or refused because of waiting files; nothing else."""
    requests = [client.detect_over_grpc(image, timeout_s=300) for _ in range(MANY)]
    await _together(agent, tally, f"{MANY} dicom", requests, may_refuse=True)


async def _together(
    agent: LiveAgent,
    tally: Tally,
    what: str,
    requests: list[Awaitable[Any]],
    *,
    may_refuse: bool = False,
) -> None:
    """Send all at once and sample memory; all results must be the same."""
    sampler = ProcessSampler(agent.process.pid, io.StringIO())

    async def sample() -> None:
        while True:
            sampler.take_sample()
            await asyncio.sleep(SAMPLE_INTERVAL_S)

    sampling = asyncio.create_task(sample())
    answers = await asyncio.gather(*requests, return_exceptions=True)
    sampling.cancel()
    await asyncio.wait({sampling})
    tally.peak_mb[what] = max(it.all_kb for it in sampler.samples) / 1e3
    sound = [it for it in answers if not isinstance(it, BaseException)]
    for answer in answers:
        if not isinstance(answer, BaseException):
            is_same = (
                answer == sound[0] if isinstance(answer, bytes) else are_equal(answer, sound[0])
            )
            tally.ends["answered"] += 1
            if not is_same:
                tally.wrong.append(f"{what}: answered differently")
        elif may_refuse and isinstance(answer, RequestFailed) and answer.code == "overloaded":
            tally.ends["refused"] += 1
        else:
            tally.ends["failed"] += 1
            tally.wrong.append(f"{what}: {answer!r}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the campaign and print its result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(argv)
    tally = asyncio.run(campaign())
    peaks = "; ".join(f"{what} {peak:.0f}" for what, peak in tally.peak_mb.items())
    print(
        f"large images: {ROWS * COLUMNS / 1e6:.1f} megapixels each: {dict(tally.ends)}; "
        f"MB at most: {peaks}; wrong: {len(tally.wrong)}"
    )
    for line in tally.wrong[:20]:
        print(" ", line)
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
