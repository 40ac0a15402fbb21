"""Ingestion of a folder of study images by several processes, with a journal.

Each stored image is noted as one line of `images.jsonl`, so that a run that was killed continues
where it stopped. A file that cannot be read, or that makes a decoder crash or hang, is left out;
the other files are not affected. A disk that cannot be written ends the run.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import cv2

from training.data.atomic_files import explain_write_errors
from training.data.ingested_image import (
    IngestedImage,
    IngestTask,
    compute_stamp,
    ingest_image,
    reject,
)
from training.errors import TrainingError

JOURNAL: Final = "images.jsonl"
SUFFIXES: Final = {".dicom", ".dcm", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ""}
LIMIT_S: Final = 120.0
"""Time limit for one file. The largest radiographs take a few seconds, on a busy machine too."""

Ingest = Callable[[IngestTask], IngestedImage]


def find_images(folder: Path, image_ids: Iterable[str]) -> tuple[dict[str, Path], list[str]]:
    """Find the files of some images in a folder and its subfolders.

    Returns:
        The files by image id, and the names of the image files that belong to none of the ids.

    Raises:
        TrainingError: there is no such folder, or two files belong to one image.
    """
    if not folder.is_dir():
        raise TrainingError(f"{folder} is not a folder")
    ids, found, others = set(image_ids), dict[str, Path](), list[str]()
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        # Ids may have dots, and files may have no suffix.
        name = path.name if path.name in ids else path.stem
        if name not in ids:
            others.append(path.name)
        elif name in found:
            raise TrainingError(
                f"two files for the image {name}: {found[name]} and {path}",
                hint="Leave one of them in the folder.",
            )
        else:
            found[name] = path
    return found, others


def ingest_all(
    tasks: Sequence[IngestTask],
    journal: Path,
    *,
    workers: int,
    ingest: Ingest = ingest_image,
    limit_s: float = LIMIT_S,
) -> Iterator[IngestedImage]:
    """Ingest the files that the journal does not list yet.

    Args:
        tasks: the files.
        journal: file with one line per stored image; it is extended.
        workers: number of processes.
        ingest: function that ingests one file.
        limit_s: time limit for one file in seconds; a file that takes longer cannot be used.

    Yields:
        Every image: those of the journal first, then the others as they are done.

    Raises:
        TrainingError: the folder holds images made from other files or at another size; an image
            or the journal cannot be written.
    """
    known = _read_journal(journal)
    # Checked before anything is written, so that a refused run has changed nothing.
    _check_same_sources(tasks, known)
    todo = []
    for task in tasks:
        image = known.get(task.image_id)
        if image is not None and _is_stored(image, task.target):
            yield image
        else:
            todo.append(task)
    _prepare_folders(todo)
    with journal.open("a", encoding="utf-8") as lines:
        for image in _ingest_in_processes(todo, workers, ingest, limit_s):
            if not image.why:  # A rejected file is tried again by the next run.
                with explain_write_errors(journal):
                    lines.write(json.dumps(asdict(image)) + "\n")
                    lines.flush()
            yield image


def _read_journal(journal: Path) -> dict[str, IngestedImage]:
    """Return the images of the journal by id; a line that was cut by a kill is removed."""
    known: dict[str, IngestedImage] = {}
    if not journal.is_file():
        return known
    text = journal.read_text(encoding="utf-8", errors="replace")
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        journal.write_text(text, encoding="utf-8")
    for line in text.splitlines():
        try:
            fields: Mapping[str, Any] = json.loads(line)
            image = IngestedImage(**fields)
        except (ValueError, TypeError):
            continue
        known[image.image_id] = image
    return known


def _check_same_sources(tasks: Sequence[IngestTask], known: Mapping[str, IngestedImage]) -> None:
    for task in tasks:
        if task.image_id in known and known[task.image_id].stamp != compute_stamp(task):
            raise TrainingError(
                f"{task.target.parent} holds {task.image_id} at another size, or from another file "
                f"than {task.source}",
                hint="Give another --out: a data set that runs may have trained on is not "
                "rewritten.",
            )


def _is_stored(image: IngestedImage, target: Path) -> bool:
    try:
        return target.stat().st_size == image.size_bytes
    except OSError:
        return False


def _prepare_folders(tasks: Sequence[IngestTask]) -> None:
    """Make the target folders and remove the temporary files of a run that was killed."""
    for folder in {task.target.parent for task in tasks}:
        with explain_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for stale in folder.glob(".*.part"):
                stale.unlink(missing_ok=True)


def _ingest_in_processes(
    tasks: Sequence[IngestTask], workers: int, ingest: Ingest, limit_s: float
) -> Iterator[IngestedImage]:
    left = list(reversed(tasks))
    while left:
        suspects: list[IngestTask] = []
        limited = partial(_ingest_within_limit, ingest, limit_s)
        yield from _ingest_until_crash(left, suspects, workers, limited)
        # A decoder that crashes or hangs ends its process, and the pool does not report which file
        # caused it. So each file that was in progress is tried again in a process of its own.
        for task in suspects:
            yield _ingest_alone(task, ingest, limit_s)


def _ingest_until_crash(
    left: list[IngestTask], suspects: list[IngestTask], workers: int, ingest: Ingest
) -> Iterator[IngestedImage]:
    """Ingest `left`. After a crash return; the files then in progress are in `suspects`."""
    running: dict[Future[IngestedImage], IngestTask] = {}
    with _start_pool(workers) as pool:
        try:
            while left or running:
                while left and len(running) < 2 * workers:
                    task = left.pop()
                    suspects.append(task)
                    running[pool.submit(ingest, task)] = task
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    image = done.result()
                    suspects.remove(running.pop(done))
                    yield image
        except BrokenProcessPool:
            return
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _ingest_alone(task: IngestTask, ingest: Ingest, limit_s: float) -> IngestedImage:
    """Ingest one file in a process of its own, so that a crash or time-out is attributed to it."""
    with _start_pool(1) as pool:
        started = time.monotonic()
        try:
            return pool.submit(_ingest_within_limit, ingest, limit_s, task).result()
        except BrokenProcessPool:
            if time.monotonic() - started < limit_s:
                return reject(task, "the decoder crashed on it")
            return reject(task, f"the decoder did not finish within {limit_s:g} s")


def _ingest_within_limit(ingest: Ingest, limit_s: float, task: IngestTask) -> IngestedImage:
    """Ingest a file in a worker; the operating system ends the process after `limit_s`."""
    # The default action of the signal, not a Python handler: a handler runs only when native code
    # returns to the interpreter, and code that hangs does not return.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        return ingest(task)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _start_pool(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: OpenCV's own threads do not survive a fork.
    return ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    )
