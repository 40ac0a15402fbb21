"""Study images into a set: read as the clinic's are, checked, stored as grey PNG.

The work is done by several processes and noted line by line in `images.jsonl`, so that a run that
was killed goes on where it stopped. A file that cannot be read, or that a decoder crashes on or
hangs in, costs this file its place, nothing else; a disk that cannot be written ends the run.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import cv2

from edge_agent.core.study_context import StudyContext
from edge_agent.errors import StudyImageRefused
from edge_agent.imaging import read_study
from training.data import atomic_files, image_checks
from training.data.atomic_files import explain_write_errors
from training.errors import TrainingError

JOURNAL: Final = "images.jsonl"
SUFFIXES: Final = {".dicom", ".dcm", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ""}


@dataclass(frozen=True, slots=True)
class IngestTask:
    """One file to take in; `fit` is the model input's side to store for, None for full size."""

    image_id: str
    source: Path
    target: Path
    fit: int | None


@dataclass(frozen=True, slots=True)
class IngestedImage:
    """One stored picture, or why there is none (`why`, everything else empty then).

    `rows` and `columns` are the stored picture's, `original_*` the file's. `patient_id` is a
    pseudonym. `age` is in whole years.
    """

    image_id: str
    source: str
    stamp: str
    why: str = ""
    rows: int = 0
    columns: int = 0
    original_rows: int = 0
    original_columns: int = 0
    patient_id: str = ""
    sex: str = ""
    age: str = ""
    view: str = ""
    manufacturer: str = ""
    photometric: str = ""
    flags: str = ""
    fingerprint: str = ""
    size_bytes: int = 0


Ingest = Callable[[IngestTask], IngestedImage]

LIMIT_S: Final = 120.0
"""What one file may take. The largest radiographs take a few seconds, on a busy machine too."""


def find_images(folder: Path, wanted: Iterable[str]) -> tuple[dict[str, Path], list[str]]:
    """Files of a folder and the folders in it, by image id; and the names of those nobody wants.

    Raises:
        TrainingError: no folder, or two files for one image.
    """
    if not folder.is_dir():
        raise TrainingError(f"{folder} is not a folder")
    ids, found, others = set(wanted), dict[str, Path](), list[str]()
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


def ingest_image(task: IngestTask) -> IngestedImage:
    """Read, check and store one file.

    Raises:
        TrainingError: the picture cannot be stored.
    """
    stamp = compute_stamp(task)
    unread = IngestedImage(task.image_id, task.source.name, stamp)
    try:
        data = task.source.read_bytes()
        fit = None if task.fit is None else (task.fit, task.fit)
        radiograph, context = read_study(data, fit=fit)
        if radiograph.pixels.size > radiograph.facts.rows * radiograph.facts.columns:
            # Smaller than the input: kept as it is, enlarging it adds nothing but bytes.
            radiograph, context = read_study(data)
    except StudyImageRefused as refusal:
        return _refused(unread, refusal.message)
    except OSError as error:
        return _refused(unread, f"the file cannot be read: {error.strerror}")
    facts = radiograph.facts
    flags = image_checks.find_flags(radiograph.pixels, facts.rows, facts.columns)
    if "constant" in flags:
        return _refused(unread, image_checks.FLAGS["constant"])
    encoded = cv2.imencode(".png", radiograph.pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
    atomic_files.replace_file(task.target, encoded.tobytes())
    return IngestedImage(
        image_id=task.image_id,
        source=task.source.name,
        stamp=stamp,
        rows=radiograph.pixels.shape[0],
        columns=radiograph.pixels.shape[1],
        original_rows=facts.rows,
        original_columns=facts.columns,
        patient_id=make_pseudonym(context.patient_id),
        sex=context.patient_sex if context.patient_sex in {"F", "M", "O"} else "",
        age=age_in_years(context),
        view=facts.view,
        manufacturer=facts.manufacturer,
        photometric=facts.photometric,
        flags=" ".join(flags),
        fingerprint=image_checks.compute_fingerprint(radiograph.pixels),
        size_bytes=encoded.size,
    )


def _refused(unread: IngestedImage, why: str) -> IngestedImage:
    return IngestedImage(unread.image_id, unread.source, unread.stamp, why=why)


def make_pseudonym(patient_id: str) -> str:
    """A name that only tells patients apart; "" where none is known. It is no anonymisation."""
    return f"p-{sha256(patient_id.encode()).hexdigest()[:12]}" if patient_id else ""


def age_in_years(context: StudyContext) -> str:
    """Age in whole years as the header gives it (`045Y`, `009M`), or ""."""
    digits, unit = context.patient_age[:-1], context.patient_age[-1:]
    per_year = {"Y": 1, "M": 12, "W": 52, "D": 365}.get(unit)
    if per_year is None or not digits.isascii() or not digits.isdigit():
        return ""
    return str(int(digits) // per_year)


def compute_stamp(task: IngestTask) -> str:
    """What a picture was made from: another file or size has another stamp."""
    try:
        stat = task.source.stat()
    except OSError:
        return "unreadable"
    return f"{stat.st_size}:{stat.st_mtime_ns}:{task.fit}"


def ingest_all(
    tasks: list[IngestTask],
    journal: Path,
    *,
    workers: int,
    ingest: Ingest = ingest_image,
    limit_s: float = LIMIT_S,
) -> Iterator[IngestedImage]:
    """Take in what has not been taken in before, yielding everything in the order it is known.

    Args:
        tasks: the files.
        journal: where it is noted what has been taken in.
        workers: how many processes work.
        take: what is done with a file.
        limit_s: how long that may take; a file that takes longer cannot be used.

    Raises:
        TrainingError: the folder holds pictures made from other files or at another size; a
            picture or the journal cannot be written.
    """
    before = _noted(journal)
    # Looked at first: a refused run has changed nothing.
    for task in tasks:
        if task.image_id in before and before[task.image_id].stamp != compute_stamp(task):
            raise TrainingError(
                f"{task.target.parent} holds {task.image_id} at another size, or from another file "
                f"than {task.source}",
                hint="Give another --out: a set that runs may have learnt from is not rewritten.",
            )
    todo = []
    for task in tasks:
        known = before.get(task.image_id)
        if known is not None and _complete(known, task.target):
            yield known
        else:
            todo.append(task)
    if todo:
        pictures = todo[0].target.parent
        with explain_write_errors(pictures):
            pictures.mkdir(parents=True, exist_ok=True)
            for stale in pictures.glob(".*.part"):
                stale.unlink(missing_ok=True)
    with journal.open("a", encoding="utf-8") as notes:
        for taken in _in_processes(todo, workers, ingest, limit_s):
            if not taken.why:  # what failed is tried again the next time
                with explain_write_errors(journal):
                    notes.write(json.dumps(asdict(taken)) + "\n")
                    notes.flush()
            yield taken


def _noted(journal: Path) -> dict[str, IngestedImage]:
    noted: dict[str, IngestedImage] = {}
    if journal.is_file():
        text = journal.read_text(encoding="utf-8", errors="replace")
        if text and not text.endswith("\n"):  # a kill in the middle of a line
            text = text[: text.rfind("\n") + 1]
            journal.write_text(text, encoding="utf-8")
        for line in text.splitlines():
            try:
                fields: Mapping[str, Any] = json.loads(line)
                taken = IngestedImage(**fields)
            except (ValueError, TypeError):
                continue
            noted[taken.image_id] = taken
    return noted


def _complete(known: IngestedImage, target: Path) -> bool:
    try:
        return target.stat().st_size == known.size_bytes
    except OSError:
        return False


def _in_processes(
    tasks: list[IngestTask], workers: int, ingest: Ingest, limit_s: float
) -> Iterator[IngestedImage]:
    left = list(reversed(tasks))
    while left:
        suspects: list[IngestTask] = []
        yield from _until_one_dies(left, suspects, workers, partial(_limited, ingest, limit_s))
        # A decoder that crashes or hangs takes its process along, and nobody says which file it
        # was: each that was in the works is tried in a process of its own.
        for task in suspects:
            yield _alone(task, ingest, limit_s)


def _until_one_dies(
    left: list[IngestTask], suspects: list[IngestTask], workers: int, ingest: Ingest
) -> Iterator[IngestedImage]:
    """Work through `left`; on a dead process the tasks not known to be done go to `suspects`."""
    running: dict[Future[IngestedImage], IngestTask] = {}
    with _pool(workers) as pool:
        try:
            while left or running:
                while left and len(running) < 2 * workers:
                    task = left.pop()
                    suspects.append(task)
                    running[pool.submit(ingest, task)] = task
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    taken = done.result()
                    suspects.remove(running.pop(done))
                    yield taken
        except BrokenProcessPool:
            return
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _alone(task: IngestTask, ingest: Ingest, limit_s: float) -> IngestedImage:
    with _pool(1) as pool:
        began = time.monotonic()
        try:
            return pool.submit(_limited, ingest, limit_s, task).result()
        except BrokenProcessPool:
            unread = IngestedImage(task.image_id, task.source.name, compute_stamp(task))
            if time.monotonic() - began < limit_s:
                return _refused(unread, "the decoder crashed on it")
            return _refused(unread, f"the decoder did not come to an end in {limit_s:g} s")


def _limited(ingest: Ingest, limit_s: float, task: IngestTask) -> IngestedImage:
    """In a worker: take a file in; the system ends the process if that takes too long."""
    # No handler in Python could: native code that hangs does not let the interpreter run.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        return ingest(task)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: OpenCV's own threads do not survive a fork.
    return ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    )
