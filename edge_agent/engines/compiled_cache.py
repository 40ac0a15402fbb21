"""Compiled models kept between starts, each under a digest of its own.

OpenVINO's own CACHE_DIR does notice other weights, but not a flipped bit inside a stored blob: the
model would then run and be wrong. So blobs are kept here, beside their SHA-256, and one that does
not agree is as good as absent. A blob is trusted like code, so the folder must be private.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from edge_agent.errors import ConfigInvalid

KEEP: Final = 8
"""Blobs kept; the least recently written go first."""
_DIGEST_BYTES: Final = hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True)
class CompiledCache:
    """A private folder of blobs, named by whatever their compilation depends on."""

    folder: Path

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Make the folder (mode 0700) or check that it is private.

        Raises:
            ConfigInvalid: the folder cannot be made, is a link, another user's, or open to others.
        """
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.lstat()
        except OSError as error:
            raise ConfigInvalid(f"the model cache {folder} cannot be used: {error}") from error
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise ConfigInvalid(
                f"the model cache {folder} is not a private folder of this user",
                hint="Name another folder, or remove this one and let the agent make it.",
            )
        return cls(folder)

    def load(self, *depends_on: str) -> bytes | None:
        """The blob stored for the same words, or None if there is none or it is damaged."""
        try:
            content = self._path(depends_on).read_bytes()
        except OSError:
            return None
        digest, blob = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        return blob if hashlib.sha256(blob).digest() == digest else None

    def store(self, blob: bytes, *depends_on: str) -> None:
        """Keep a blob for next time. A full or broken disk costs only the time saved."""
        path = self._path(depends_on)
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as beside:
                beside.write(hashlib.sha256(blob).digest())
                beside.write(blob)
                beside.flush()
                os.fsync(beside.fileno())
            Path(beside.name).replace(path)
            self._drop_old()
        except OSError:
            path.unlink(missing_ok=True)

    def _drop_old(self) -> None:
        blobs = sorted(self.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for path in blobs[:-KEEP]:
            path.unlink(missing_ok=True)

    def _path(self, depends_on: tuple[str, ...]) -> Path:
        # Each word by its own digest, so that moving a boundary between two gives another name.
        words = (hashlib.sha256(word.encode()).digest() for word in depends_on)
        return self.folder / f"{hashlib.sha256(b''.join(words)).hexdigest()}.blob"
