"""Detection on files of this machine by an agent elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

from edge_agent.cli.batch import FileOutcome
from edge_agent.core.findings import Box, Finding
from edge_agent.core.radiograph import ImageFacts, ImageWarning, Spacing
from edge_agent.errors import ConfigInvalid
from edge_agent.serving.types import DetectionResult, Timings
from hilum import client
from hilum.codes import WarningCode

WITHIN_S = 120.0
"""For one file, from when it is sent, with all its retries."""


def open_client(
    server: str, api_key_file: Path | None = None, tls: client.Tls | None = None
) -> client.Client:
    """A connection to an agent.

    Raises:
        ConfigInvalid: plain text beyond this machine, or a file that cannot be read.
    """
    try:
        return client.Client(server, tls=tls, api_key_file=api_key_file)
    except (ValueError, OSError) as error:
        raise ConfigInvalid(
            f"The agent at {server} cannot be asked: {error}",
            hint="Beyond this machine give --ca, and --api-key-file where it asks for a key.",
        ) from None


def detect_files(
    agent: client.Client, paths: Sequence[Path], *, score_threshold: float | None = None
) -> Iterator[FileOutcome]:
    """Have files looked at, several at a time; outcomes come in the files' order.

    Raises:
        DetectError: the agent cannot be spoken with (any more).
    """
    done: dict[Path, FileOutcome] = {}
    due = iter(paths)
    awaited = next(due, None)
    for path, found in agent.detect_many(paths, threshold=score_threshold, timeout_s=WITHIN_S):
        done[path] = (
            FileOutcome(path, answer=_answer(found))
            if isinstance(found, client.Result)
            else FileOutcome(path, error=found)
        )
        while awaited in done:
            yield done.pop(awaited)
            awaited = next(due, None)


def _answer(result: client.Result) -> DetectionResult:
    facts = asdict(result.image)
    spacing = facts.pop("spacing")
    return DetectionResult(
        request_id=result.request_id,
        findings=tuple(
            Finding(it.entry.index, it.score, Box(**asdict(it.box))) for it in result.findings
        ),
        image=ImageFacts(**facts, spacing=None if spacing is None else Spacing(**spacing)),
        # A newer agent may send codes that are not known here yet.
        warnings=tuple(
            ImageWarning(cast(WarningCode, it.code), it.message) for it in result.warnings
        ),
        bundle_digest=result.bundle_digest,
        engine=result.engine,
        timings=Timings(**asdict(result.timings)),
    )
