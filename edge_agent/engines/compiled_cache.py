"""Compiled models kept between starts, each under a digest of its own.

OpenVINO's own CACHE_DIR does notice other weights, but not a flipped bit inside a stored blob: the
model would then run and be wrong. So blobs are kept here, beside their SHA-256, and one that does
not agree is as good as absent. A blob is trusted like code, so the folder must be private.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from edge_agent.system.files import make_private_folder, remove_oldest, replace_file

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
        make_private_folder(folder, "model cache")
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
            replace_file(path, hashlib.sha256(blob).digest(), blob, mode=0o600)
            remove_oldest(self.folder, keep=KEEP)
        except OSError:
            with suppress(OSError):  # A disk that takes no writing lets nothing be removed either.
                path.unlink(missing_ok=True)

    def _path(self, depends_on: tuple[str, ...]) -> Path:
        # Each word by its own digest, so that moving a boundary between two gives another name.
        words = (hashlib.sha256(word.encode()).digest() for word in depends_on)
        return self.folder / f"{hashlib.sha256(b''.join(words)).hexdigest()}.blob"
