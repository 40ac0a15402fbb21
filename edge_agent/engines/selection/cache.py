"""Cache of engine selections, keyed by hardware, runtime versions, bundle and settings."""

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
"""Selections that are kept; the least recently written are removed first."""
_MAX_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class SelectionKey:
    """All that a selection depends on.

    `runtimes` are versions by name; `candidates` are in the bundle's order.
    """

    hardware: Hardware
    runtimes: dict[str, str]
    bundle_digest: str
    candidates: tuple[str, ...]
    wanted: str
    threads: int

    def as_text(self) -> str:
        """Return the key as text; equal keys have equal texts."""
        return json.dumps(asdict(self), sort_keys=True)


class CachedSelection(BaseModel):
    """A selection as it is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    key: str
    variant: str
    reason: str
    measured: tuple[BenchmarkResult, ...]
    max_batch: int = Field(ge=1, le=64)
    parallel_requests: int = Field(ge=1, le=64)

    @property
    def batch(self) -> BatchPolicy:
        """Return how images are given to the engine."""
        return BatchPolicy(self.max_batch, self.parallel_requests)


@dataclass(frozen=True, slots=True)
class SelectionCache:
    """A private folder of selections, one file for each key."""

    folder: Path

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Make the folder, or check that it is private.

        Raises:
            ConfigInvalid: the folder cannot be made, is a link, another user's, or open to others.
        """
        make_private_folder(folder, "model cache")
        return cls(folder)

    def load(self, key: SelectionKey) -> CachedSelection | None:
        """Return the stored selection; None if there is none, or its file is damaged or foreign."""
        try:
            kept = CachedSelection.model_validate_json(_read_own(self._path(key)))
        except (OSError, ValidationError):
            return None
        fits = kept.key == key.as_text()
        return kept if fits and kept.variant in key.candidates else None

    def store(self, kept: CachedSelection, key: SelectionKey) -> None:
        """Store a selection. A full or broken disk is ignored; it costs another measurement."""
        with suppress(OSError):
            content = kept.model_dump_json(indent=2) + "\n"
            replace_file(self._path(key), content.encode(), mode=0o600)
            remove_oldest(self.folder, keep=KEEP)

    def _path(self, key: SelectionKey) -> Path:
        return self.folder / f"{hashlib.sha256(key.as_text().encode()).hexdigest()}.json"


def _read_own(path: Path) -> bytes:
    """Read a small private file of this user; raises OSError for any other file."""
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
    # Without O_NONBLOCK a pipe in the file's place would block the start.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
