"""Files that belong together are replaced together, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from training.errors import TrainingError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file or folder where the system only says that the disk is full.

    Raises:
        TrainingError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"cannot write {path}: {error.strerror or error}",
            hint="What was finished before is as it was. Make room, then start again.",
        ) from error


def write_whole(data: bytes, path: Path) -> None:
    """Write one of many files, whole or not at all; a power cut may still take it.

    Raises:
        TrainingError: the disk cannot be written.
    """
    # The process in the name: one that was orphaned by a kill may still be writing.
    part = path.with_name(f".{path.stem}.{os.getpid()}.part")
    with writing(path):
        try:
            part.write_bytes(data)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def replacing(folder: Path) -> Iterator[Callable[[str], Path]]:
    """Write beside, then rename.

    Yields a function from a file's name in the folder to the path where it is to be written. When
    the block ends, all of them take their names, in the order they were asked for; if it fails (a
    full disk, an interruption), none does and what was there before is as it was.

    Raises:
        TrainingError: the disk cannot be written.
    """
    parts: dict[Path, Path] = {}

    def place(name: str) -> Path:
        final = folder / name
        part = final.with_name(f".{final.name}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        parts[part] = final
        return part

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield place
            for part in parts:
                with part.open("rb+") as written:
                    os.fsync(written.fileno())
            for part, final in parts.items():
                part.replace(final)
        finally:
            for part in parts:
                part.unlink(missing_ok=True)
