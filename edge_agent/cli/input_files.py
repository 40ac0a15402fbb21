"""From what was named on the command line to the files that are meant."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

SUFFIXES: Final = frozenset({".dcm", ".dicom", ".jpg", ".jpeg", ".png", ".tif", ".tiff"})
FileMark = tuple[int, int, int, int]
"""Device, inode, size and time of the last change."""
_PREAMBLE_BYTES: Final = 128  # DICOM PS3.10 section 7.1: then the prefix `DICM`.


class UsageError(Exception):
    """The command line does not make sense; its message says why."""


def find_files(names: Iterable[str], *, recursive: bool = False) -> list[Path]:
    """The files that names, folders and patterns mean, each once, in the order given.

    A file named outright is taken whatever it is, also if it is not there: that it cannot be read
    is said of it like any other failure. Of a folder those files are taken that look like study
    images: by their ending, or by DICOM's prefix where they have none of the known ones. Hidden
    files are left out. What cannot be read, file or folder within a folder, is taken too: nothing
    that may be a radiograph is passed over in silence.

    Args:
        names: files, folders, or patterns with `*`, `?`, `[...]` and `**`.
        recursive: look into folders within folders too.

    Raises:
        Misused: a folder holds no study image, or a pattern matches nothing.
    """
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            chosen = sorted(_in_folder(path, recursive=recursive))
            if not chosen:
                deeper = "" if recursive else " (--recursive looks into folders within it)"
                raise UsageError(f"No study image in the folder {name}{deeper}.")
        elif glob.has_magic(name) and not path.exists():
            # Path.glob takes no absolute pattern.
            matches = map(Path, sorted(glob.glob(str(path), recursive=True)))  # noqa: PTH207
            chosen = [match for match in matches if match.is_file()]
            if not chosen:
                raise UsageError(f"No file matches {name}.")
        else:
            chosen = [path]
        found |= dict.fromkeys(chosen)
    return list(found)


def _in_folder(folder: Path, *, recursive: bool) -> Iterator[Path]:
    unread: list[Path] = []
    for place, within, names in os.walk(
        folder, onerror=lambda error: unread.append(Path(error.filename))
    ):
        within[:] = [name for name in within if recursive and not name.startswith(".")]
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            if _may_be_file(path) and looks_like_study_image(path):
                yield path
    yield from unread


def _may_be_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return True


def looks_like_study_image(path: Path) -> bool:
    """Whether a file found in a folder is worth a try."""
    if path.name.upper() == "DICOMDIR":  # A directory of DICOM files, itself no image.
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(_PREAMBLE_BYTES + 4)[_PREAMBLE_BYTES:] == b"DICM"
    except OSError:
        return True  # Whoever reads it will say why it cannot be.


def overlay_paths(target: Path, files: Sequence[Path], *, into_folder: bool) -> dict[Path, Path]:
    """Where each file's overlay goes: never to a study image itself, by whatever name.

    Args:
        target: a file ending in `.png`, or a folder, which is made if it is not there.
        files: the study images.
        into_folder: whether more than one plain file was named, so that `target` is a folder.

    Raises:
        Misused: `target` is a single file for several images, a study image, or not a place for a
            picture.
    """
    images = {file.resolve() for file in files}
    is_picture = target.suffix.lower() == ".png" and not target.is_dir()
    if is_picture and (into_folder or len(files) != 1):
        raise UsageError(
            f"--overlay {target} is one picture, but there may be several: name a folder."
        )
    if is_picture:
        if not target.parent.is_dir():
            raise UsageError(f"--overlay {target}: there is no folder {target.parent}.")
        if target.resolve() in images:
            raise UsageError(f"--overlay {target} is the study image itself: choose another name.")
        return {files[0]: target}
    if target.suffix and not target.is_dir():
        raise UsageError(f"--overlay {target}: pictures are PNG files; end its name in .png.")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--overlay {target}: {error.strerror}.") from None
    taken: set[Path] = set()
    paths = {}
    for file in files:
        stem = file.stem if file.suffix.lower() in SUFFIXES else file.name
        numbered = (f"{stem}-{number}.png" for number in itertools.count(2))
        places = (target / name for name in itertools.chain([f"{stem}.png"], numbered))
        paths[file] = next(it for it in places if it not in taken and it.resolve() not in images)
        taken.add(paths[file])
    return paths


def file_mark(path: Path) -> FileMark | None:
    """What tells a file from another, or a later one, of its name; None where there is none."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
