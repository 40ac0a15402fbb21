"""Atomic replacement of files, with errors that name the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edge_agent.system import files
from training.errors import TrainingError

_MODE: Final = 0o666  # Less the umask, as for any file that a program writes.


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Name the file or folder that could not be written.

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


def replace_file(path: Path, data: bytes) -> None:
    """Write one of many files, whole or not at all; a power cut may still lose it.

    Raises:
        TrainingError: the disk cannot be written.
    """
    # Not fsynced: a set has tens of thousands of images, and one that is missing is made again.
    with explain_write_errors(path):
        files.replace_file(path, data, mode=_MODE, fsync=False)


@contextmanager
def replace_files(folder: Path) -> Iterator[Callable[[str], Path]]:
    """Replace files of a folder together: `edge_agent.system.files.replace_files`.

    Raises:
        TrainingError: the disk cannot be written.
    """
    with explain_write_errors(folder), files.replace_files(folder) as temporary_path:
        yield temporary_path
