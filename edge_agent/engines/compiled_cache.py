"""A cache of compiled models between starts, each stored with its digest.

OpenVINO's own CACHE_DIR detects other weights, but not a flipped bit inside a stored blob: the
model would run and be wrong. Blobs are therefore stored here with their SHA-256, and a blob that
does not match is ignored. A blob is trusted like code, so the folder must be private. See
docs/decisions/0050-own-compiled-cache.md.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from edge_agent.system.files import make_private_folder, remove_oldest, replace_file

KEEP: Final = 8
"""Blobs that are kept; the least recently written are removed first."""
_DIGEST_BYTES: Final = hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True)
class CompiledCache:
    """A private folder of blobs. The key of a blob is all that its compilation depends on."""

    folder: Path

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Make the folder (mode 0700) or check that it is private.

        Raises:
            ConfigInvalid: the folder cannot be made, is a link, another user's, or open to others.
        """
        make_private_folder(folder, "model cache")
        return cls(folder)

    def load(self, *key: str) -> bytes | None:
        """Return the blob stored under the same key; None if it is absent or damaged."""
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        digest, blob = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        return blob if hashlib.sha256(blob).digest() == digest else None

    def store(self, blob: bytes, *key: str) -> None:
        """Store a blob. A full or broken disk is ignored: it costs only another compilation."""
        path = self._path(key)
        try:
            replace_file(path, hashlib.sha256(blob).digest(), blob, mode=0o600)
            remove_oldest(self.folder, keep=KEEP)
        except OSError:
            with suppress(OSError):  # Removal fails, too, if the disk cannot be written.
                path.unlink(missing_ok=True)

    def _path(self, key: tuple[str, ...]) -> Path:
        # Each part is hashed first, so that the parts ("ab", "c") and ("a", "bc") differ.
        digests = (hashlib.sha256(part.encode()).digest() for part in key)
        return self.folder / f"{hashlib.sha256(b''.join(digests)).hexdigest()}.blob"
