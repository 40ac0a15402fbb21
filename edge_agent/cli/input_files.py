"""The files that a command line names: study images to read, and overlays to write."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

SUFFIXES: Final = frozenset({".dcm", ".dicom", ".jpg", ".jpeg", ".png", ".tif", ".tiff"})
FileIdentity = tuple[int, int, int, int]
"""A file's file system, inode, size in bytes and time of its last change in ns."""
_PREAMBLE_BYTES: Final = 128  # DICOM PS3.10 section 7.1: the prefix `DICM` follows it.


class UsageError(Exception):
    """The command line is wrong; the message says why."""


def find_files(names: Iterable[str], *, recursive: bool = False) -> list[Path]:
    """Expand names, folders and patterns to files, each once, in the order given.

    A named file is always included, even if it does not exist: the failure to read it is then
    reported like any other. From a folder, files are included that may be study images: by their
    suffix, or by DICOM's prefix if they have no known suffix. Hidden files are left out. Files and
    subfolders that cannot be read are included, so that no radiograph is left out without a report.

    Args:
        names: files, folders, or patterns with `*`, `?`, `[...]` and `**`.
        recursive: include the files in subfolders.

    Returns:
        The files.

    Raises:
        UsageError: a folder holds no study image, or a pattern matches nothing.
    """
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            files = sorted(_files_in_folder(path, recursive=recursive))
            if not files:
                suggestion = "" if recursive else " (--recursive includes its subfolders)"
                raise UsageError(f"No study image in the folder {name}{suggestion}.")
        elif glob.has_magic(name) and not path.exists():
            # Path.glob accepts no absolute pattern.
            matches = map(Path, sorted(glob.glob(str(path), recursive=True)))  # noqa: PTH207
            files = [match for match in matches if match.is_file()]
            if not files:
                raise UsageError(f"No file matches {name}.")
        else:
            files = [path]
        found |= dict.fromkeys(files)
    return list(found)


def _files_in_folder(folder: Path, *, recursive: bool) -> Iterator[Path]:
    unreadable: list[Path] = []
    for parent, subfolders, names in os.walk(
        folder, onerror=lambda error: unreadable.append(Path(error.filename))
    ):
        subfolders[:] = [name for name in subfolders if recursive and not name.startswith(".")]
        for path in (Path(parent, name) for name in names if not name.startswith(".")):
            if _may_be_file(path) and may_be_study_image(path):
                yield path
    yield from unreadable


def _may_be_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return True


def may_be_study_image(path: Path) -> bool:
    """Return True if a file in a folder has a known suffix or DICOM's prefix, or is unreadable."""
    if path.name.upper() == "DICOMDIR":  # A directory of DICOM files, and no image.
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(_PREAMBLE_BYTES + 4)[_PREAMBLE_BYTES:] == b"DICM"
    except OSError:
        return True  # Reading it later reports why it is unreadable.


def choose_overlay_paths(
    target: Path, files: Sequence[Path], *, into_folder: bool
) -> dict[Path, Path]:
    """Choose each file's overlay path, which is never a study image's, not even through a link.

    Args:
        target: a file ending in `.png`, or a folder, which is created if it does not exist.
        files: the study images.
        into_folder: True if anything but one plain file was named, so that `target` is a folder.

    Returns:
        The overlay's path for each file.

    Raises:
        UsageError: `target` is a single file for several images, is a study image, or is neither
            a PNG file nor a folder.
    """
    images = {file.resolve() for file in files}
    is_png = target.suffix.lower() == ".png" and not target.is_dir()
    if is_png and (into_folder or len(files) != 1):
        raise UsageError(
            f"--overlay {target} is one image, but there may be several: name a folder."
        )
    if is_png:
        if not target.parent.is_dir():
            raise UsageError(f"--overlay {target}: there is no folder {target.parent}.")
        if target.resolve() in images:
            raise UsageError(f"--overlay {target} is the study image itself: choose another name.")
        return {files[0]: target}
    if target.suffix and not target.is_dir():
        raise UsageError(f"--overlay {target}: overlays are PNG files; end its name in .png.")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--overlay {target}: {error.strerror}.") from None
    used: set[Path] = set()
    paths = {}
    for file in files:
        stem = file.stem if file.suffix.lower() in SUFFIXES else file.name
        numbered = (f"{stem}-{number}.png" for number in itertools.count(2))
        candidates = (target / name for name in itertools.chain([f"{stem}.png"], numbered))
        paths[file] = next(
            path for path in candidates if path not in used and path.resolve() not in images
        )
        used.add(paths[file])
    return paths


def file_identity(path: Path) -> FileIdentity | None:
    """Return values that change when a file is replaced or rewritten; None if it cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
