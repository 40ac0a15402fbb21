"""Detection on files of this machine, without a server."""

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
from edge_agent.serving.error_boundary import coded
from edge_agent.serving.types import DetectionRequest, DetectionResult
from hilum.client import DetectError
from hilum.codes import ErrorCode


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """One file and what came of it: an answer, or why there is none."""

    path: Path
    answer: DetectionResult | None = None
    error: HilumError | DetectError | None = None


async def detect_files(
    pipeline: DetectionService,
    paths: Iterable[Path],
    *,
    score_threshold: float | None = None,
    max_bytes: int,
    ahead: int = 3,
) -> AsyncIterator[FileOutcome]:
    """Look at files, in their order, a few ahead of the one that is awaited.

    A file that fails fails alone.

    Args:
        pipeline: what looks at them; must have at least `ahead` places.
        paths: the files.
        score_threshold: replaces every operating point.
        max_bytes: larger files are refused unread.
        ahead: how many files are worked on at a time.
    """

    async def outcome(path: Path) -> FileOutcome:
        try:
            image = await asyncio.to_thread(read_limited, path, max_bytes)
            request = DetectionRequest(request_id="", image=image, score_threshold=score_threshold)
            return FileOutcome(path, answer=await pipeline.detect(request))
        except Exception as error:  # noqa: BLE001  # the boundary: every failure gets a code
            return FileOutcome(path, error=coded(error))

    waiting: deque[asyncio.Task[FileOutcome]] = deque()
    try:
        for path in paths:
            waiting.append(asyncio.create_task(outcome(path)))
            if len(waiting) >= ahead:
                yield await waiting.popleft()
        while waiting:
            yield await waiting.popleft()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def read_limited(path: Path, max_bytes: int) -> bytes:
    """A file's bytes, if it is a plain file of at most `max_bytes`.

    Raises:
        InvalidRequest: the file is not there or cannot be read.
        StudyImageRefused: the file is too large.
    """
    try:
        facts = path.stat()
        if stat.S_ISDIR(facts.st_mode):
            raise InvalidRequest("The folder cannot be read.", hint="Check its permissions.")
        if not stat.S_ISREG(facts.st_mode):
            raise InvalidRequest("This is not a plain file.", hint="Name files or folders.")
        if facts.st_size > max_bytes:
            raise StudyImageRefused(
                f"The file has {facts.st_size} bytes; at most {max_bytes} are taken.",
                code=ErrorCode.TOO_LARGE,
                hint="Raise limits.max_image_bytes in the settings if it is one radiograph.",
            )
        return path.read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "unknown reason"
        raise InvalidRequest(
            f"The file cannot be read: {reason}.", hint="Check its name and permissions."
        ) from None


def overlay_png(image: bytes, findings: Sequence[Finding], limits: Limits) -> bytes:
    """The radiograph at its original size with its findings drawn on it, as a PNG file.

    Raises:
        StudyImageRefused: the image cannot be read.
    """
    radiograph, _study_context = read_study(image, limits=limits)
    return encode_png(draw_overlay(radiograph.pixels, findings))
