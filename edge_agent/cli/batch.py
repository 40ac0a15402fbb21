"""Detection in files on this machine, without a server."""

from __future__ import annotations

import asyncio
import os
import stat
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.cli.overlay import draw_overlay, encode_png
from edge_agent.core.findings import Finding
from edge_agent.errors import HilumError, InvalidRequest, StudyImageRefused
from edge_agent.imaging import Limits, read_study
from edge_agent.serving.detection import DetectionService
from edge_agent.serving.error_boundary import as_hilum_error
from edge_agent.serving.types import DetectionRequest, DetectionResult
from hilum.client import DetectError
from hilum.codes import ErrorCode


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """A file with its detection result, or with the error that left it without one.

    It has both if only its overlay failed.
    """

    path: Path
    result: DetectionResult | None = None
    error: HilumError | DetectError | None = None


async def detect_files(
    service: DetectionService,
    paths: Iterable[Path],
    *,
    score_threshold: float | None = None,
    max_bytes: int,
    max_running: int = 3,
) -> AsyncIterator[FileOutcome]:
    """Run detection on files, several at a time. A file that fails does not affect the others.

    Args:
        service: runs the model; it must admit at least `max_running` requests.
        paths: the files.
        score_threshold: replaces every operating point.
        max_bytes: larger files are refused unread.
        max_running: the most files that are processed at a time.

    Yields:
        One outcome for each file, in the files' order.
    """

    async def detect_file(path: Path) -> FileOutcome:
        try:
            image = await asyncio.to_thread(read_limited, path, max_bytes)
            request = DetectionRequest(request_id="", image=image, score_threshold=score_threshold)
            return FileOutcome(path, result=await service.detect(request))
        except Exception as error:  # noqa: BLE001  # the boundary: every failure gets a code
            return FileOutcome(path, error=as_hilum_error(error))

    running: deque[asyncio.Task[FileOutcome]] = deque()
    try:
        for path in paths:
            running.append(asyncio.create_task(detect_file(path)))
            if len(running) >= max_running:
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def read_limited(path: Path, max_bytes: int) -> bytes:
    """Read a plain file of at most `max_bytes`.

    Raises:
        InvalidRequest: the file does not exist or cannot be read.
        StudyImageRefused: the file is too large.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise InvalidRequest("The folder cannot be read.", hint="Check its permissions.")
        if not stat.S_ISREG(status.st_mode):
            raise InvalidRequest("This is not a plain file.", hint="Name files or folders.")
        if status.st_size > max_bytes:
            raise StudyImageRefused(
                f"The file has {status.st_size} bytes; at most {max_bytes} are accepted.",
                code=ErrorCode.TOO_LARGE,
                hint="Raise limits.max_image_bytes in the settings if it is one radiograph.",
            )
        return path.read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "unknown reason"
        raise InvalidRequest(
            f"The file cannot be read: {reason}.", hint="Check its name and permissions."
        ) from None


def render_overlay(image: bytes, findings: Sequence[Finding], limits: Limits) -> bytes:
    """Draw findings on a radiograph at its original size.

    Args:
        image: the study image's bytes.
        findings: boxes in pixels of the original image.
        limits: for the decoder.

    Returns:
        A PNG file.

    Raises:
        StudyImageRefused: the image cannot be read.
    """
    radiograph, _study_context = read_study(image, limits=limits)
    return encode_png(draw_overlay(radiograph.pixels, findings))
