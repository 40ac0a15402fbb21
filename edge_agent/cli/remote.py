"""Detection in files of this machine by an agent on another machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, cast

from edge_agent.cli.batch import FileOutcome
from edge_agent.core.findings import Box, Finding
from edge_agent.core.radiograph import ImageFacts, ImageWarning, Spacing
from edge_agent.errors import ConfigInvalid
from edge_agent.serving.types import DetectionResult, Timings
from hilum import client
from hilum.codes import WarningCode

TIMEOUT_S: Final = 120.0
"""For one file, from when it is sent, with all its retries."""


@dataclass(frozen=True, slots=True)
class RemoteAgent:
    """An agent's address, `host:port`, and the credentials for it."""

    address: str
    api_key_file: Path | None = None
    tls: client.Tls | None = None


def open_client(agent: RemoteAgent) -> client.Client:
    """Open a connection to an agent. The caller closes it.

    Raises:
        ConfigInvalid: a plain-text connection beyond this machine, or a file that cannot be read.
    """
    try:
        return client.Client(agent.address, tls=agent.tls, api_key_file=agent.api_key_file)
    except (ValueError, OSError) as error:
        raise ConfigInvalid(
            f"There can be no connection to the agent at {agent.address}: {error}",
            hint="Beyond this machine give --ca, and --api-key-file where the agent needs a key.",
        ) from None


def detect_files(
    connection: client.Client, paths: Sequence[Path], *, score_threshold: float | None = None
) -> Iterator[FileOutcome]:
    """Send files to an agent, several at a time.

    Args:
        connection: the agent.
        paths: the files.
        score_threshold: replaces every operating point.

    Yields:
        One outcome for each file, in the files' order.

    Raises:
        DetectError: the agent cannot be reached, or no longer.
    """
    finished: dict[Path, FileOutcome] = {}
    remaining = iter(paths)
    following = next(remaining, None)
    for path, outcome in connection.detect_many(
        paths, threshold=score_threshold, timeout_s=TIMEOUT_S
    ):
        finished[path] = (
            FileOutcome(path, result=_to_detection_result(outcome))
            if isinstance(outcome, client.Result)
            else FileOutcome(path, error=outcome)
        )
        while following in finished:
            yield finished.pop(following)
            following = next(remaining, None)


def _to_detection_result(result: client.Result) -> DetectionResult:
    facts = asdict(result.image)
    spacing = facts.pop("spacing")
    return DetectionResult(
        request_id=result.request_id,
        findings=tuple(
            Finding(found.entry.index, found.score, Box(**asdict(found.box)))
            for found in result.findings
        ),
        image=ImageFacts(**facts, spacing=None if spacing is None else Spacing(**spacing)),
        # A newer agent may send codes that this version does not have.
        warnings=tuple(
            ImageWarning(cast(WarningCode, warning.code), warning.message)
            for warning in result.warnings
        ),
        bundle_digest=result.bundle_digest,
        engine=result.engine,
        timings=Timings(**asdict(result.timings)),
    )
