"""What was chosen, kept between starts for as long as all that it depends on stays the same."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.core.engine_selection import BatchPolicy, BenchmarkResult
from edge_agent.engines.hardware import Hardware
from edge_agent.system.files import make_private_folder, remove_oldest, replace_file

KEEP: Final = 8
"""Choices kept; the least recently made go first."""
_MAX_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class SelectionKey:
    """All that a choice depends on. `runtimes` are versions by name, `candidates` in order."""

    hardware: Hardware
    runtimes: dict[str, str]
    bundle_digest: str
    candidates: tuple[str, ...]
    wanted: str
    threads: int

    def as_text(self) -> str:
        """The same text for the same circumstances."""
        return json.dumps(asdict(self), sort_keys=True)


class CachedSelection(BaseModel):
    """A choice as it is written down."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    circumstances: str
    variant: str
    reason: str
    measured: tuple[BenchmarkResult, ...]
    max_batch: int = Field(ge=1, le=64)
    parallel_requests: int = Field(ge=1, le=64)

    @property
    def batch(self) -> BatchPolicy:
        """How images are given to the engine."""
        return BatchPolicy(self.max_batch, self.parallel_requests)


@dataclass(frozen=True, slots=True)
class SelectionCache:
    """A private folder of choices, one file for each set of circumstances."""

    folder: Path

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Make the folder, or check that it is private.

        Raises:
            ConfigInvalid: it cannot be made, is a link, another user's, or open to others.
        """
        make_private_folder(folder, "model cache")
        return cls(folder)

    def load(self, circumstances: SelectionKey) -> CachedSelection | None:
        """What was chosen before; None if nothing was, or the file is damaged or foreign."""
        try:
            kept = CachedSelection.model_validate_json(_read_own(self._path(circumstances)))
        except (OSError, ValidationError):
            return None
        fits = kept.circumstances == circumstances.as_text()
        return kept if fits and kept.variant in circumstances.candidates else None

    def store(self, kept: CachedSelection, circumstances: SelectionKey) -> None:
        """Keep a choice for next time. A full or broken disk costs only the time saved."""
        with suppress(OSError):
            content = kept.model_dump_json(indent=2) + "\n"
            replace_file(self._path(circumstances), content.encode(), mode=0o600)
            remove_oldest(self.folder, keep=KEEP)

    def _path(self, circumstances: SelectionKey) -> Path:
        return self.folder / f"{hashlib.sha256(circumstances.as_text().encode()).hexdigest()}.json"


def _read_own(path: Path) -> bytes:
    """A small file that is nobody else's; OSError otherwise."""
    with open(path, "rb", opener=_no_link) as file:  # Path.open takes no opener
        found = os.fstat(file.fileno())
        if (
            not stat.S_ISREG(found.st_mode)
            or found.st_uid != os.geteuid()
            or found.st_mode & 0o077
            or found.st_size > _MAX_BYTES
        ):
            raise OSError(f"{path} is not a small private file of this user")
        return file.read(_MAX_BYTES)


def _no_link(path: str, flags: int) -> int:
    # Without O_NONBLOCK a pipe put in the file's place would hold up the start.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
